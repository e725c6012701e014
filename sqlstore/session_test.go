package sqlstore_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
)

var (
	ann  = account.Subject{Audience: account.AudienceApp, ID: "u1"}
	boss = account.Subject{Audience: account.AudienceAdmin, ID: "u1"} // another's id by chance
)

// session is a session that lives from t0 for an hour, a day at most.
func session(sid string, of account.Subject) account.Session {
	return account.Session{
		ID: sid, Of: of, Scopes: []string{"device:read", "device:control"}, Method: "google",
		Device: account.Device{InstallID: "i-1", Platform: "ios", Name: "Ann's phone"}, ClientType: "app", IP: "192.0.2.7", UserAgent: "App/1",
		CreatedAt: t0, LastUsedAt: t0, ExpiresAt: t0.Add(time.Hour), AbsoluteExpiresAt: t0.Add(24 * time.Hour),
	}
}

// begin writes sessions.
func (s *store) begin(list ...account.Session) {
	s.t.Helper()
	s.write(func(ctx context.Context, tx account.Tx) error {
		for _, x := range list {
			if err := tx.InsertSession(ctx, x); err != nil {
				return err
			}
		}
		return nil
	})
}

// session reads one.
func (s *store) session(sid string) (x account.Session) {
	s.t.Helper()
	s.read(func(ctx context.Context, tx account.Tx) (err error) {
		x, err = tx.Session(ctx, sid)
		return err
	})
	return x
}

// sids lists a subject's live sessions.
func (s *store) sids(of account.Subject, now time.Time, before string, limit int) (ids []string) {
	s.t.Helper()
	s.read(func(ctx context.Context, tx account.Tx) error {
		list, err := tx.Sessions(ctx, of, now, before, limit)
		for _, x := range list {
			ids = append(ids, x.ID)
		}
		return err
	})
	return ids
}

func TestSessions(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		bare := account.Session{ID: "s0", Of: boss, Method: "password", CreatedAt: t0, LastUsedAt: t0, ExpiresAt: t0.Add(time.Hour), AbsoluteExpiresAt: t0.Add(time.Hour), Scopes: []string{}}
		s.begin(bare, session("s1", ann), session("s2", ann), session("s3", ann))
		t.Run("are read back as they were written", func(t *testing.T) {
			equal(t, "bare", s.session("s0"), bare)
			equal(t, "full", s.session("s1"), session("s1", ann))
			err := s.try(func(ctx context.Context, tx account.Tx) error {
				_, err := tx.Session(ctx, "nobody")
				return err
			})
			is(t, "unknown", err, account.ErrSessionNotFound)
		})
		t.Run("are listed for their subject alone, newest first, in pages, while they live", func(t *testing.T) {
			equal(t, "all", s.sids(ann, t0, "", 10), []string{"s3", "s2", "s1"})
			equal(t, "first page", s.sids(ann, t0, "", 2), []string{"s3", "s2"})
			equal(t, "second page", s.sids(ann, t0, "s2", 2), []string{"s1"})
			equal(t, "staff of the same id", s.sids(boss, t0, "", 10), []string{"s0"})
			equal(t, "when they end", s.sids(ann, t0.Add(time.Hour), "", 10), nil)
		})
		t.Run("slide, unless they are revoked", func(t *testing.T) {
			want := session("s1", ann)
			want.Scopes, want.IP, want.UserAgent, want.ClientType = []string{"device:read"}, "192.0.2.8", "", "cli"
			want.LastUsedAt, want.ExpiresAt = after(60), t0.Add(2*time.Hour)
			touch := func(x account.Session) (changed bool) {
				s.write(func(ctx context.Context, tx account.Tx) (err error) {
					changed, err = tx.TouchSession(ctx, x)
					return err
				})
				return changed
			}
			equal(t, "changed", touch(want), true)
			equal(t, "session", s.session("s1"), want)
			s.write(func(ctx context.Context, tx account.Tx) error {
				changed, err := tx.RevokeSession(ctx, ann, "s1", account.ReasonSignedOut, after(61))
				equal(t, "revoked", changed, true)
				return err
			})
			equal(t, "changed after the end", touch(want), false)
			want.RevokedAt, want.RevokeReason = after(61), account.ReasonSignedOut
			equal(t, "revoked session", s.session("s1"), want)
		})
		t.Run("are revoked once, by their subject alone", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, c := range []struct {
					of   account.Subject
					sid  string
					want bool
				}{{boss, "s2", false}, {ann, "s1", false}, {ann, "nobody", false}, {ann, "s2", true}, {ann, "s2", false}} {
					changed, err := tx.RevokeSession(ctx, c.of, c.sid, "x", after(62))
					if err != nil {
						return err
					}
					equal(t, fmt.Sprint(c), changed, c.want)
				}
				return nil
			})
			equal(t, "left", s.sids(ann, t0, "", 10), []string{"s3"})
		})
		t.Run("are revoked all at once, but the one to keep", func(t *testing.T) {
			s.begin(session("s4", ann), session("s5", ann))
			s.write(func(ctx context.Context, tx account.Tx) error {
				sids, err := tx.RevokeSessions(ctx, ann, "s4", account.ReasonSignedOut, after(63))
				equal(t, "ended", len(sids), 2)
				return err
			})
			equal(t, "kept", s.sids(ann, t0, "", 10), []string{"s4"})
			equal(t, "staff of the same id", s.sids(boss, t0, "", 10), []string{"s0"})
			s.write(func(ctx context.Context, tx account.Tx) error {
				sids, err := tx.RevokeSessions(ctx, ann, "", account.ReasonSignedOut, after(64))
				equal(t, "the last", sids, []string{"s4"})
				return err
			})
		})
		t.Run("are known as revoked since a time", func(t *testing.T) {
			s.read(func(ctx context.Context, tx account.Tx) error {
				list, err := tx.RevokedSessions(ctx, after(64))
				equal(t, "list", list, []account.Revoked{{ID: "s4", RevokedAt: after(64)}})
				return err
			})
		})
		t.Run("have ids of their own", func(t *testing.T) {
			if err := s.try(func(ctx context.Context, tx account.Tx) error { return tx.InsertSession(ctx, session("s1", ann)) }); err == nil {
				t.Error("an id was taken twice")
			}
		})
		t.Run("are deleted with their refresh tokens when they have ended for good, in batches", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				for _, hash := range []string{"h1", "h2", "h3"} {
					if err := tx.InsertRefreshToken(ctx, []byte(hash), "s1", t0); err != nil {
						return err
					}
				}
				for i, want := range []int{2, 2, 2, 2, 0} { // two tokens; one, and s0 to s5
					n, err := tx.DeleteSessions(ctx, t0.Add(25*time.Hour), 2)
					if err != nil {
						return err
					}
					equal(t, fmt.Sprint("deleted by batch ", i), n, want)
				}
				_, ok, err := tx.RefreshToken(ctx, []byte("h1"))
				equal(t, "refresh token", ok, false)
				return err
			})
		})
	})
}

func TestRefreshTokens(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		s.begin(session("s1", ann))
		t.Run("are read back by hash", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertRefreshToken(ctx, []byte{0, 1, 255}, "s1", t0)
			})
			s.read(func(ctx context.Context, tx account.Tx) error {
				r, ok, err := tx.RefreshToken(ctx, []byte{0, 1, 255})
				equal(t, "token", []any{r, ok}, []any{account.RefreshRecord{SessionID: "s1", IssuedAt: t0}, true})
				if err != nil {
					return err
				}
				_, ok, err = tx.RefreshToken(ctx, []byte{0, 1})
				equal(t, "unknown", ok, false)
				return err
			})
		})
		t.Run("belong to a session", func(t *testing.T) {
			if err := s.try(func(ctx context.Context, tx account.Tx) error {
				return tx.InsertRefreshToken(ctx, []byte("x"), "nobody", t0)
			}); err == nil {
				t.Error("a token of no session was written")
			}
		})
		t.Run("are retired by one of many at once", func(t *testing.T) {
			var winners atomic.Int32
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					first := false
					err := s.try(func(ctx context.Context, tx account.Tx) (err error) {
						first, err = tx.RetireRefreshToken(ctx, []byte{0, 1, 255}, after(1))
						return err
					})
					if err != nil {
						t.Error(err)
					}
					if first {
						winners.Add(1)
					}
				})
			}
			wg.Wait()
			equal(t, "winners", winners.Load(), 1)
			s.read(func(ctx context.Context, tx account.Tx) error {
				r, _, err := tx.RefreshToken(ctx, []byte{0, 1, 255})
				equal(t, "retired", r.RetiredAt, after(1))
				return err
			})
		})
	})
}

func TestUsedTokens(t *testing.T) {
	eachEngine(t, func(t *testing.T, s *store) {
		use := func(hash string, expires time.Time) (fresh bool) {
			s.write(func(ctx context.Context, tx account.Tx) (err error) {
				fresh, err = tx.UseToken(ctx, []byte(hash), expires)
				return err
			})
			return fresh
		}
		t.Run("work once", func(t *testing.T) {
			equal(t, "first", use("a", after(10)), true)
			equal(t, "second", use("a", after(10)), false)
			equal(t, "another", use("b", after(20)), true)
		})
		t.Run("are forgotten when they have expired", func(t *testing.T) {
			s.write(func(ctx context.Context, tx account.Tx) error {
				n, err := tx.DeleteUsedTokens(ctx, after(15), 10)
				equal(t, "deleted", n, 1)
				return err
			})
			equal(t, "still known", use("b", after(20)), false)
		})
	})
}
