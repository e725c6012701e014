package account_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func isInvalidRequest(err error) bool { return errors.Is(err, registry.ErrInvalidRequest) }

// mailServer does what the test says.
type mailServer func(ctx context.Context, m account.Mail) error

func (f mailServer) Send(ctx context.Context, m account.Mail) error { return f(ctx, m) }

// memory is a store that keeps nothing: what waits for mail has no other part in it.
type memory struct{ account.Store }

func (memory) InTx(context.Context, func(account.Tx) error) error { return nil }

// mailing is the domain in virtual time, with a mail server of the test's.
func mailing(t *testing.T, server mailServer, devices ...account.Devices) *account.Service {
	t.Helper()
	key, _, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := account.New(memory{}, append(devices, nil)[0], account.Options{SigningKey: key, Hash: cheap(), Mailer: server, LinkPage: "https://cloud.example.com/auth/magic"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, s *account.Service) error {
	t.Helper()
	return s.SendMagicLink(t.Context(), account.MagicLinkRequest{Email: "ann@example.com", InstallID: "phone", CodeChallenge: challengeOf(verifier)})
}

var errBusy = errors.New("451 later")

func TestMailsAreTriedAgainForAsLongAsTheirLinkWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Duration
		began := time.Now()
		s := mailing(t, func(context.Context, account.Mail) error {
			tries = append(tries, time.Since(began))
			return errBusy
		})
		if err := send(t, s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // virtual
		synctest.Wait()
		want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 31 * time.Second, 61 * time.Second}
		if len(tries) < len(want) || fmt.Sprint(tries[:len(want)]) != fmt.Sprint(want) {
			t.Errorf("tried at %v, want first %v", tries, want)
		}
		if last := tries[len(tries)-1]; last > account.LinkLife || last < account.LinkLife-time.Minute {
			t.Errorf("the last try was after %v", last)
		}
		s.CloseMail(t.Context())
	})
}

func TestAMailIsSentOnceAndARefusedOneNotAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		var answer error
		s := mailing(t, func(context.Context, account.Mail) error {
			tries++
			return answer
		})
		for _, answer = range []error{nil, fmt.Errorf("550: %w", account.ErrMailRefused)} {
			tries = 0
			if err := send(t, s); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if tries != 1 {
				t.Errorf("%v: tried %d times", answer, tries)
			}
		}
		s.CloseMail(t.Context())
	})
}

func TestTheAnswerDoesNotWaitForTheMailServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mailing(t, func(ctx context.Context, _ account.Mail) error {
			<-ctx.Done() // it hangs
			return ctx.Err()
		})
		began := time.Now()
		for range 1024 {
			if err := send(t, s); err != nil {
				t.Fatal(err)
			}
		}
		if err := send(t, s); !errors.Is(err, account.ErrMailBusy) || registry.KindOf(err) != registry.Unavailable {
			t.Errorf("one mail too many: %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
		time.Sleep(account.LinkLife)
		synctest.Wait()
		if err := send(t, s); err != nil {
			t.Errorf("after the mails were given up: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.CloseMail(ctx)
	})
}

// everybodyIsInvited has always more mails about invitations.
type everybodyIsInvited struct{ account.Devices }

func (everybodyIsInvited) TakeInvitationMails(_ context.Context, limit int) ([]registry.Invitation, error) {
	return make([]registry.Invitation, limit), nil
}

func TestInvitationsLeaveRoomForThoseWhoSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mailing(t, func(ctx context.Context, _ account.Mail) error {
			<-ctx.Done()
			return ctx.Err()
		}, everybodyIsInvited{})
		if err := account.MailDue(t.Context(), s); !errors.Is(err, account.ErrMailBusy) {
			t.Errorf("invitations without end: %v", err)
		}
		for range 512 {
			if err := send(t, s); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.CloseMail(ctx)
	})
}

func TestAtMostFourConversationsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		s := mailing(t, func(context.Context, account.Mail) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		})
		for range 20 {
			if err := send(t, s); err != nil {
				t.Fatal(err)
			}
		}
		s.CloseMail(t.Context())
		if most.Load() != 4 {
			t.Errorf("%d at once", most.Load())
		}
	})
}

func TestAtTheEndWhatWaitsIsTriedOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int64
		var sent strings.Builder
		s := mailing(t, func(context.Context, account.Mail) error {
			if tries.Add(1) <= 5 {
				return errBusy
			}
			sent.WriteString("sent ")
			return nil
		})
		if err := send(t, s); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second) // five tries, and in the middle of a pause
		synctest.Wait()
		began := time.Now()
		s.CloseMail(t.Context())
		if sent.String() != "sent " || time.Since(began) != 0 {
			t.Errorf("sent %q after %v, %d tries", sent.String(), time.Since(began), tries.Load())
		}
		if err := send(t, s); !errors.Is(err, account.ErrMailBusy) {
			t.Errorf("after the end: %v", err)
		}
		s.CloseMail(t.Context()) // again, which does nothing
	})
}

func TestTheEndDoesNotWaitForAMailServerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mailing(t, func(ctx context.Context, _ account.Mail) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if err := send(t, s); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		s.CloseMail(ctx)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
