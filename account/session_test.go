package account_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// payload is what an access token says, and header, how it is signed.
func payload(t testing.TB, token account.AccessToken) map[string]any { return part(t, token, 1) }
func header(t testing.TB, token account.AccessToken) map[string]any  { return part(t, token, 0) }

func part(t testing.TB, token account.AccessToken, n int) map[string]any {
	t.Helper()
	part := strings.Split(token.Reveal(), ".")[n]
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// again is the same cloud after a restart.
func (w *world) again(t testing.TB) *world {
	t.Helper()
	next := *w
	var err error
	next.Service, err = account.New(w.db.Accounts(), w.reg, account.Options{SigningKey: w.signing, Now: w.clock.Now, Dev: true, Hash: cheap()})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Boot(context.Background()); err != nil {
		t.Fatal(err)
	}
	return &next
}

// sids lists somebody's live sessions.
func (w *world) sids(t testing.TB, a registry.Actor) (ids []string) {
	t.Helper()
	list, err := w.Sessions(context.Background(), a, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		ids = append(ids, x.ID)
	}
	return ids
}

func TestSignOut(t *testing.T) {
	ctx := context.Background()
	t.Run("ends the tokens of the session at once and for good, and nobody else's", func(t *testing.T) {
		w := newWorld(t, nil)
		mine, other := w.signIn(t, "a@example.com"), w.signIn(t, "a@example.com")
		a := w.actor(t, mine.Access)
		w.good(mine.Access) // now it is remembered as good
		for range 2 {       // idempotent
			if err := w.SignOut(ctx, a, ""); err != nil {
				t.Fatal(err)
			}
		}
		if w.good(mine.Access) {
			t.Error("the access token is still good")
		}
		if _, err := w.use(mine.Refresh, install); !errors.Is(err, account.ErrInvalidToken) {
			t.Errorf("the refresh token: %v", err)
		}
		if !w.good(other.Access) {
			t.Error("another session ended")
		}
		restarted := w.again(t)
		if restarted.good(mine.Access) {
			t.Error("a restart forgave")
		}
		if !restarted.good(other.Access) {
			t.Error("after a restart the other session is over")
		}
		if n := w.events(t)["session_revoked"]; n != 1 {
			t.Errorf("%d rows of session_revoked", n)
		}
	})
	t.Run("takes a refresh token of the same person with it, and of no other", func(t *testing.T) {
		w := newWorld(t, nil)
		mine, second, stranger := w.signIn(t, "a@example.com"), w.signIn(t, "a@example.com"), w.signIn(t, "b@example.com")
		a := w.actor(t, mine.Access)
		for _, token := range []string{stranger.Refresh.Reveal(), "nonsense", second.Refresh.Reveal()} {
			if err := w.SignOut(ctx, a, token); err != nil {
				t.Fatal(err)
			}
		}
		if w.good(second.Access) || !w.good(stranger.Access) {
			t.Error("the wrong session ended")
		}
	})
	t.Run("with an access token of before a refresh ends the session too", func(t *testing.T) {
		w := newWorld(t, nil)
		first := w.signIn(t, "a@example.com")
		second, err := w.use(first.Refresh, install)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.SignOut(ctx, w.actor(t, first.Access), ""); err != nil || w.good(second.Access) {
			t.Errorf("the newer token is good, %v", err)
		}
	})
	t.Run("is remembered for as long as a token could live, and no longer", func(t *testing.T) {
		w := newWorld(t, nil)
		mine := w.signIn(t, "a@example.com")
		if err := w.SignOut(ctx, w.actor(t, mine.Access), ""); err != nil {
			t.Fatal(err)
		}
		w.clock.Add(15*time.Minute - time.Second)
		if w.good(mine.Access) || w.again(t).good(mine.Access) {
			t.Error("good again before its end")
		}
		w.clock.Add(time.Second)
		if w.good(mine.Access) || w.again(t).good(mine.Access) {
			t.Error("good again after its end")
		}
	})
	t.Run("is felt by another process on the same database", func(t *testing.T) {
		w := newWorld(t, nil)
		mine := w.signIn(t, "a@example.com")
		other := w.again(t)
		told := make(chan struct{})
		other.Follow(other.actor(t, mine.Access), func() { close(told) })
		if err := w.SignOut(ctx, w.actor(t, mine.Access), ""); err != nil {
			t.Fatal(err)
		}
		if !other.good(mine.Access) {
			t.Error("it knows already: this test proves nothing")
		}
		other.tick(t)
		if <-told; other.good(mine.Access) {
			t.Error("the other process takes the token")
		}
	})
	t.Run("again is felt although the first answer was lost", func(t *testing.T) {
		w := newWorld(t, nil)
		mine := w.signIn(t, "a@example.com")
		a := w.actor(t, mine.Access)
		w.sql(t, `UPDATE auth_sessions SET revoked_at = ?, revoke_reason = 'signed_out' WHERE sid = ?`, w.clock.Now().UnixMicro(), a.SessionID)
		if err := w.SignOut(ctx, a, ""); err != nil || w.good(mine.Access) {
			t.Errorf("the token is good, %v", err)
		}
	})
	t.Run("holds although tokens used to live longer", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.AccessTTL = 12 * time.Hour })
		mine, other := w.signIn(t, "a@example.com"), w.signIn(t, "a@example.com")
		if err := w.SignOut(ctx, w.actor(t, mine.Access), ""); err != nil {
			t.Fatal(err)
		}
		w.clock.Add(time.Hour)
		if !w.good(other.Access) || w.good(mine.Access) {
			t.Error("wrong before the restart")
		}
		usual := w.again(t) // with tokens of 15 minutes
		if usual.good(mine.Access) || usual.good(other.Access) {
			t.Error("a token outlives the life of tokens")
		}
	})
}

func TestSessions(t *testing.T) {
	ctx := context.Background()
	t.Run("are listed for their person alone", func(t *testing.T) {
		w := newWorld(t, nil)
		first, second, stranger := w.signIn(t, "a@example.com"), w.signIn(t, "a@example.com"), w.signIn(t, "b@example.com")
		a := w.actor(t, first.Access)
		list, err := w.Sessions(ctx, a, "", 10)
		if err != nil || len(list) != 2 || list[0].ID != w.actor(t, second.Access).SessionID || list[1].ID != a.SessionID {
			t.Fatalf("%+v, %v", list, err)
		}
		if x := list[0]; x.Device.Name != "Phone" || x.IP != from.IP || x.UserAgent != from.UserAgent || x.Method != "dev" {
			t.Errorf("the session is %+v", x)
		}
		if _, err := w.Sessions(ctx, registry.Actor{Kind: registry.ActorService, ID: a.ID}, "", 10); !errors.Is(err, registry.ErrInsufficientRole) {
			t.Errorf("a service: %v", err)
		}
		if got := w.sids(t, w.actor(t, stranger.Access)); len(got) != 1 {
			t.Errorf("the stranger has %v", got)
		}
	})
	t.Run("end one by one, and only one's own", func(t *testing.T) {
		w := newWorld(t, nil)
		first, second, stranger := w.signIn(t, "a@example.com"), w.signIn(t, "a@example.com"), w.signIn(t, "b@example.com")
		a := w.actor(t, first.Access)
		for _, sid := range []string{w.actor(t, stranger.Access).SessionID, "nobody", ""} {
			if err := w.EndSession(ctx, a, sid); !errors.Is(err, account.ErrSessionNotFound) {
				t.Errorf("%q: %v", sid, err)
			}
		}
		sid := w.actor(t, second.Access).SessionID
		if err := w.EndSession(ctx, a, sid); err != nil || w.good(second.Access) || !w.good(stranger.Access) {
			t.Errorf("the second: %v", err)
		}
		if err := w.EndSession(ctx, a, sid); !errors.Is(err, account.ErrSessionNotFound) {
			t.Errorf("again: %v", err)
		}
	})
	t.Run("end all but the one that asks, or all", func(t *testing.T) {
		w := newWorld(t, nil)
		var mine []account.Tokens
		for range 3 {
			mine = append(mine, w.signIn(t, "a@example.com"))
		}
		stranger := w.signIn(t, "b@example.com")
		a := w.actor(t, mine[1].Access)
		if n, err := w.EndSessions(ctx, a, true); n != 2 || err != nil || w.good(mine[0].Access) || !w.good(mine[1].Access) || w.good(mine[2].Access) {
			t.Errorf("the others: %d, %v", n, err)
		}
		if n, err := w.EndSessions(ctx, a, false); n != 1 || err != nil || w.good(mine[1].Access) || !w.good(stranger.Access) {
			t.Errorf("all: %d, %v", n, err)
		}
	})
	t.Run("of staff and of a person with the same id are apart", func(t *testing.T) {
		w := newWorld(t, nil)
		tokens := w.signIn(t, "a@example.com")
		a := w.actor(t, tokens.Access)
		if n, err := w.EndSessions(ctx, registry.Actor{Kind: registry.ActorAdmin, ID: a.ID, SessionID: a.SessionID}, false); n != 0 || err != nil || !w.good(tokens.Access) {
			t.Errorf("%d, %v", n, err)
		}
	})
}

func TestFollow(t *testing.T) {
	ctx := context.Background()
	t.Run("who follows is told once, however often it ends", func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.actor(t, w.signIn(t, "a@example.com").Access)
		told := make(chan struct{}, 10)
		stop := w.Follow(a, func() { told <- struct{}{} })
		quiet := w.Follow(a, func() { t.Error("told after it stopped") })
		quiet()
		for range 2 {
			if err := w.SignOut(ctx, a, ""); err != nil {
				t.Fatal(err)
			}
		}
		<-told
		stop()
		stop()
		late := make(chan struct{})
		w.Follow(a, func() { close(late) })
		<-late // at once: it has ended
		if len(told) != 0 {
			t.Error("told twice")
		}
	})
	t.Run("Run returns when the followers that were called have", func(t *testing.T) {
		w := newWorld(t, nil)
		a := w.actor(t, w.signIn(t, "a@example.com").Access)
		var done atomic.Bool
		release := make(chan struct{})
		w.Follow(a, func() { <-release; done.Store(true) })
		if err := w.SignOut(ctx, a, ""); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		ended := make(chan struct{})
		go func() { w.Run(ctx); close(ended) }()
		close(release)
		<-ended
		if !done.Load() {
			t.Error("Run did not wait")
		}
	})
}

func TestPurge(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, nil)
	old := w.signIn(t, "a@example.com")
	for range 600 { // more than one batch
		err := w.db.Accounts().InTx(ctx, func(tx account.Tx) error {
			_, err := tx.UseToken(ctx, []byte(rand.Text()), w.clock.Now().Add(time.Hour))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.clock.Add(91 * day)
	fresh := w.signIn(t, "a@example.com")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go w.Run(ctx)
		time.Sleep(61 * time.Second)
		cancel()
		synctest.Wait()
	})
	if _, err := w.use(fresh.Refresh, ""); err != nil {
		t.Errorf("a live session was deleted: %v", err)
	}
	sid := payload(t, old.Access)["sid"].(string)
	err := w.db.Accounts().InTx(ctx, func(tx account.Tx) error {
		if _, err := tx.Session(ctx, sid); !errors.Is(err, account.ErrSessionNotFound) {
			t.Errorf("the old session: %v", err)
		}
		n, err := tx.DeleteUsedTokens(ctx, w.clock.Now(), 10)
		if n != 0 {
			t.Errorf("%d used tokens were left", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
