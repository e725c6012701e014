package account_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opticworks/devicecloud/account"
)

// kids lists the key ids that are published.
func (w *world) kids(t testing.TB) (ids []string) {
	t.Helper()
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(w.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		ids = append(ids, k.ID)
	}
	return ids
}

// newKeys makes n keys.
func newKeys(t testing.TB, n int) (keys []account.SigningKey) {
	t.Helper()
	for range n {
		k, _, err := account.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}

// signer is the key id that a token of now is signed with.
func (w *world) signer(t testing.TB) string {
	t.Helper()
	tokens, _ := w.login(t, "a@example.com")
	return header(t, tokens.Access)["kid"].(string)
}

// tick lets the recurring work run once.
func (w *world) tick(t *testing.T) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go w.Run(ctx)
		time.Sleep(6 * time.Second)
		cancel()
		synctest.Wait()
	})
}

func TestSeveralSigningKeys(t *testing.T) {
	keys := newKeys(t, 2)
	t.Run("the first signs, all are published and verify", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.SigningKey, o.MoreKeys = keys[0], keys[1:] })
		swapped := newWorld(t, func(o *account.Options) { o.SigningKey, o.MoreKeys = keys[1], keys[:1] })
		ids := w.kids(t)
		if len(ids) != 2 || w.signer(t) != ids[0] || swapped.signer(t) != ids[1] {
			t.Errorf("%v, signed by %s and %s", ids, w.signer(t), swapped.signer(t))
		}
		tokens, _ := swapped.login(t, "a@example.com")
		if !w.good(tokens.Access) {
			t.Error("a token of the second key is refused")
		}
	})
	t.Run("the same key twice is one", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.SigningKey, o.MoreKeys = keys[0], keys[:1] })
		if n := len(w.kids(t)); n != 1 {
			t.Errorf("%d keys", n)
		}
	})
}

// The whole way of a rotation, by replacing the one key of the file with another.
func TestRotation(t *testing.T) {
	keys := newKeys(t, 2)
	var listed atomic.Pointer[[]account.SigningKey]
	first := keys[:1]
	listed.Store(&first)
	var broken atomic.Bool
	w := newWorld(t, func(o *account.Options) {
		o.SigningKey = keys[0]
		o.ReloadKeys = func() ([]account.SigningKey, error) {
			if broken.Load() {
				return nil, errors.New("no such file")
			}
			return *listed.Load(), nil
		}
	})
	old := w.kids(t)[0]
	second := keys[1:]
	listed.Store(&second)
	w.tick(t)
	ids := w.kids(t)
	if len(ids) != 2 || ids[1] != old {
		t.Fatalf("published are %v, the old key is %s", ids, old)
	}
	fresh := ids[0]
	if got := w.signer(t); got != old {
		t.Errorf("%s signs before it has been published for long enough", got)
	}
	w.clock.Add(10*time.Minute - time.Second)
	w.tick(t)
	inFlight, _ := w.login(t, "a@example.com")
	if got := header(t, inFlight.Access)["kid"]; got != old {
		t.Errorf("%s signs too early", got)
	}
	w.clock.Add(time.Second)
	w.tick(t)
	if got := w.signer(t); got != fresh {
		t.Errorf("%s signs after 10 minutes", got)
	}
	if n := w.events(t)["signing_key_rotated"]; n != 1 {
		t.Errorf("%d rows of signing_key_rotated", n)
	}
	w.clock.Add(15*time.Minute - 2*time.Second)
	w.tick(t)
	if !w.good(inFlight.Access) {
		t.Error("a token in flight broke")
	}
	broken.Store(true)
	w.clock.Add(2 * time.Minute)
	w.tick(t)
	w.tick(t)
	if diff := cmp.Diff([]string{fresh}, w.kids(t)); diff != "" {
		t.Errorf("after all is over:\n%s", diff)
	}
	if got := w.signer(t); got != fresh {
		t.Errorf("%s signs although the file is gone", got)
	}
	if n := strings.Count(w.logs.String(), "the signing keys cannot be read anew"); n != 1 {
		t.Errorf("%d complaints", n)
	}
}

func TestReplaceSigningKeys(t *testing.T) {
	keys := newKeys(t, 3)
	t.Run("a list without a key changes nothing", func(t *testing.T) {
		w := newWorld(t, nil)
		before := w.kids(t)
		for _, list := range [][]account.SigningKey{nil, {}, {keys[0], {}}} {
			if err := w.ReplaceSigningKeys(list); err == nil {
				t.Error("taken")
			}
		}
		if diff := cmp.Diff(before, w.kids(t)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a key that comes back before its time signs on", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.SigningKey = keys[0] })
		old := w.signer(t)
		for _, list := range [][]account.SigningKey{keys[1:2], keys[:1]} {
			if err := w.ReplaceSigningKeys(list); err != nil {
				t.Fatal(err)
			}
			w.clock.Add(9 * time.Minute)
			w.tick(t)
		}
		if got := w.signer(t); got != old {
			t.Errorf("%s signs", got)
		}
		w.clock.Add(time.Hour)
		w.tick(t)
		if diff := cmp.Diff([]string{old}, w.kids(t)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("the old first key goes on while a second one of the list waits behind a new first", func(t *testing.T) {
		w := newWorld(t, func(o *account.Options) { o.SigningKey, o.MoreKeys = keys[0], keys[1:2] })
		ids := w.kids(t)
		if err := w.ReplaceSigningKeys([]account.SigningKey{keys[2], keys[0], keys[1]}); err != nil {
			t.Fatal(err)
		}
		w.tick(t)
		if got := w.signer(t); got != ids[0] {
			t.Errorf("%s signs, want %s", got, ids[0])
		}
	})
}

// Requests never fail while keys come and go.
func TestRotationUnderLoad(t *testing.T) {
	w := newWorld(t, nil)
	keys := newKeys(t, 4)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var checked atomic.Int64
	for i := range 4 {
		wg.Go(func() {
			tokens := w.signIn(t, "a@example.com")
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if !w.good(tokens.Access) {
					t.Error("a good token was refused")
					return
				}
				checked.Add(1)
				if n%50 == 0 {
					next, err := w.use(tokens.Refresh, install)
					if err != nil {
						t.Error(err)
						return
					}
					tokens = next
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, k := range keys {
		if err := w.ReplaceSigningKeys([]account.SigningKey{k}); err != nil {
			t.Error(err)
		}
		for range 4 {
			before := checked.Load()
			for checked.Load() < before+50 && !t.Failed() {
				time.Sleep(time.Millisecond)
			}
			w.clock.Add(3 * time.Minute)
			if err := w.Tick(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	wg.Wait()
}
