package account_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// post is what the domain of devices says of invitations.
type post struct {
	account.Devices
	due    chan []registry.Invitation
	moved  chan struct{}
	mailed chan registry.Invitation
}

func (p *post) InvitationsMoved() <-chan struct{} { return p.moved }

func (p *post) TakeInvitationMails(context.Context, int) ([]registry.Invitation, error) {
	select {
	case list := <-p.due:
		return list, nil
	default:
		return nil, nil
	}
}

func (p *post) InvitationMailed(_ context.Context, i registry.Invitation) error {
	p.mailed <- i
	return nil
}

// invite tells the service that a mail is due.
func (p *post) invite(i registry.Invitation) {
	p.due <- []registry.Invitation{i}
	p.moved <- struct{}{}
}

var expires = time.Date(2026, 1, 22, 10, 5, 0, 0, time.UTC)

// newPost is a service that mails invitations, running.
func newPost(t *testing.T, mailer account.Mailer) *post {
	t.Helper()
	w := newWorld(t, nil)
	p := &post{Devices: w.reg, due: make(chan []registry.Invitation, 1), moved: make(chan struct{}), mailed: make(chan registry.Invitation, 1)}
	s, err := account.New(w.db.Accounts(), p, account.Options{SigningKey: w.signing, Mailer: mailer})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-over
		s.CloseMail(context.Background())
	})
	return p
}

func TestInvitationMails(t *testing.T) {
	box := make(mailbox, 1)
	p := newPost(t, box)
	mail := func(i registry.Invitation) account.Mail {
		t.Helper()
		i.Email, i.ExpiresAt = "guest@example.com", expires
		p.invite(i)
		m := <-box
		if got := <-p.mailed; got.ID != i.ID {
			t.Errorf("noted %+v", got)
		}
		if m.To != "guest@example.com" || strings.ContainsAny(m.Subject, "\r\n") || !strings.Contains(m.Text, "22 January 2026 10:05 UTC") {
			t.Errorf("to %s, subject %q: %s", m.To, m.Subject, m.Text)
		}
		return m
	}
	for name, tc := range map[string]struct {
		inv     registry.Invitation
		subject string
		says    []string
	}{
		"a share for viewing": {
			registry.Invitation{ID: 1, Kind: registry.InviteShare, Role: registry.RoleViewer, From: "ann@example.com", DeviceName: "Hall"},
			"You are invited to use a device",
			[]string{`ann@example.com` + "\n" + `invites you to use the device "Hall".`, "viewer"},
		},
		"a share for a while": {
			registry.Invitation{ID: 2, Kind: registry.InviteShare, Role: registry.RoleAdmin, From: "ann@example.com", StartsAt: expires, EndsAt: expires.Add(time.Hour)},
			"You are invited to use a device",
			[]string{"a device", "admin", "From 22 January 2026 10:05 UTC.", "Until 22 January 2026 11:05 UTC."},
		},
		"a transfer": {
			registry.Invitation{ID: 3, Kind: registry.InviteTransfer, Role: registry.RoleOwner, From: "ann@example.com", DeviceName: "客厅 Küche"},
			"You are offered a device",
			[]string{`offers to give you the device "客厅 Küche".`, "owner"},
		},
		"of staff": {
			registry.Invitation{ID: 4, Kind: registry.InviteShare, Role: registry.RoleViewer},
			"You are invited to use a device",
			[]string{"The support team\n"},
		},
		"a name that would be more than one": {
			registry.Invitation{ID: 5, Kind: registry.InviteShare, Role: registry.RoleViewer, From: "ann@example.com", DeviceName: "x\r\nBcc: all@example.com\n\nPay at https://evil.example/now\u2028"},
			"You are invited to use a device",
			[]string{`the device "x Bcc all example com Pay at https evil example now".`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := mail(tc.inv)
			if m.Subject != tc.subject {
				t.Errorf("the subject is %q", m.Subject)
			}
			for _, want := range tc.says {
				if !strings.Contains(m.Text, want) {
					t.Errorf("it does not say %q: %s", want, m.Text)
				}
			}
			for _, never := range []string{"\r", "http", "Bcc:", "://"} {
				if strings.Contains(m.Text, never) && !(never == "http" && tc.inv.ID == 5) {
					t.Errorf("it says %q: %s", never, m.Text)
				}
			}
		})
	}
}

// moody fails as often as it is told, then takes a mail.
type moody struct {
	fails chan error
	mailbox
}

func (m moody) Send(ctx context.Context, mail account.Mail) error {
	select {
	case err := <-m.fails:
		return err
	default:
		return m.mailbox.Send(ctx, mail)
	}
}

func TestAnInvitationMailIsTriedUntilItIsSentOrRefused(t *testing.T) {
	m := moody{make(chan error, 2), make(mailbox, 1)}
	p := newPost(t, m)
	m.fails <- errors.New("busy")
	p.invite(registry.Invitation{ID: 1, Email: "guest@example.com", ExpiresAt: expires})
	<-m.mailbox
	if i := <-p.mailed; i.ID != 1 {
		t.Errorf("noted %+v", i)
	}
	m.fails <- account.ErrMailRefused
	p.invite(registry.Invitation{ID: 2, Email: "nobody@example.com", ExpiresAt: expires})
	if i := <-p.mailed; i.ID != 2 {
		t.Errorf("noted %+v", i)
	}
	if len(m.mailbox) != 0 {
		t.Error("a refused mail was sent")
	}
}
