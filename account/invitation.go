package account

import (
	"context"
	"strings"
	"time"
	"unicode"

	"github.com/opticworks/devicecloud/registry"
)

const (
	// inviteLook is how often invitations are looked for whose mails are due: another
	// process may have written them, or failed to send them.
	inviteLook = 30 * time.Second
	// inviteBatch is how many mails are taken at once: what others may take meanwhile.
	inviteBatch = 16
	// inviteSpare is how many mails they leave room for: who signs in waits for theirs.
	inviteSpare = maxMails / 2
	// inviteLife is how long one mail is tried before it is left to be taken anew.
	inviteLife = 10 * time.Minute
)

// mailInvitations sends the mails about invitations until ctx ends. That a mail is due
// is in the invitation's row, so a crash or a mail server that is away loses none; a
// crash between sending and noting it sends one twice. Sending is no part of the request
// that invites: neither its answer nor its time says whose address it is.
func (s *Service) mailInvitations(ctx context.Context) {
	for {
		err := s.mailDue(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("invitations could not be mailed; it will be tried again", "error", err)
		}
		look := time.NewTimer(inviteLook)
		select {
		case <-s.devices.InvitationsMoved():
		case <-look.C:
		case <-ctx.Done():
		}
		look.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// mailDue posts what is due, as far as the postbox has room.
func (s *Service) mailDue(ctx context.Context) error {
	for ctx.Err() == nil {
		var slots []*slot
		for range inviteBatch {
			if one, ok := s.mail.reserve(inviteSpare); ok {
				slots = append(slots, one)
			}
		}
		if len(slots) == 0 {
			return ErrMailBusy
		}
		taken, err := s.devices.TakeInvitationMails(ctx, len(slots))
		for n, one := range slots {
			if n >= len(taken) {
				one.giveBack()
				continue
			}
			inv := taken[n]
			one.postThen(invitationMail(inv), inviteLife, func() { s.mailed(inv) })
		}
		if err != nil || len(taken) < len(slots) {
			return err
		}
	}
	return nil
}

// mailed notes that a mail is sent or refused. When that cannot be written, it is sent
// again later.
func (s *Service) mailed(inv registry.Invitation) {
	ctx, cancel := context.WithTimeout(context.Background(), postTime)
	defer cancel()
	if err := s.devices.InvitationMailed(ctx, inv); err != nil {
		s.log.Warn("a mail about an invitation was sent, and may be sent again", "invitation_id", inv.ID, "error", err)
	}
}

// invitationMail is the mail about an invitation. Nothing in it is a secret: whoever
// accepts has signed in with the address. The names that others have chosen stand in the
// text alone, never in a header, and without what makes a link of them.
func invitationMail(i registry.Invitation) Mail {
	const day = "2 January 2006 15:04 UTC"
	from, device := "The support team", "a device"
	if i.From != "" {
		from = i.From
	}
	if name := plainName(i.DeviceName); name != "" {
		device = `the device "` + name + `"`
	}
	m := Mail{To: i.Email, Subject: "You are invited to use a device"}
	offer := "invites you to use " + device + ".\nYou could see it (role: viewer)."
	switch {
	case i.Kind == registry.InviteTransfer:
		m.Subject = "You are offered a device"
		offer = "offers to give you " + device + ".\nIt would be yours (role: owner)."
	case i.Role == registry.RoleAdmin:
		offer = "invites you to use " + device + ".\nYou could see it, control it and set it up (role: admin)."
	}
	var b strings.Builder
	b.WriteString(from + "\n" + offer + "\n")
	if !i.StartsAt.IsZero() {
		b.WriteString("From " + i.StartsAt.UTC().Format(day) + ".\n")
	}
	if !i.EndsAt.IsZero() {
		b.WriteString("Until " + i.EndsAt.UTC().Format(day) + ".\n")
	}
	b.WriteString(`
To accept, sign in to the app with this e-mail address and open your
invitations. The invitation expires on ` + i.ExpiresAt.UTC().Format(day) + `.

If you do not know who invites you, ignore this mail: nothing happens
unless you accept.
`)
	m.Text = b.String()
	return m
}

// plainName is a name as a mail may show it: letters, digits and spaces, and the marks
// that no reader makes a link, an address or a line of.
func plainName(name string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) || strings.ContainsRune("-_'()&+#,!?", r) {
			return r
		}
		return ' '
	}, name)), " ")
}
