package account_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// factory is a service account of a test.
type factory struct {
	account.ServiceAccount
	secret account.ServiceSecret
}

func (w *world) factory(t testing.TB, scopes ...string) factory {
	t.Helper()
	a, secret, err := w.CreateServiceAccount(context.Background(), registry.System(), "factory "+fmt.Sprint(w.clock.Now().UnixNano()), scopes)
	if err != nil {
		t.Fatal(err)
	}
	w.clock.Add(time.Microsecond) // another name for the next one
	return factory{a, secret}
}

func (w *world) apiKey(t testing.TB, f factory, k account.NewKey) (account.ServiceCredential, string) {
	t.Helper()
	if k.Name == "" {
		k.Name = "line 1"
	}
	c, secret, err := w.CreateAPIKey(context.Background(), registry.System(), f.ID, k)
	if err != nil {
		t.Fatal(err)
	}
	return c, secret.Reveal()
}

// refused fails the test unless a token or key is refused.
func (w *world) refused(t testing.TB, what, token string) {
	t.Helper()
	if a, _, err := w.ActorByToken(context.Background(), token); !errors.Is(err, account.ErrInvalidToken) {
		t.Errorf("%s: %v, %v", what, a, err)
	}
}

// accepted fails the test unless a token or key is good.
func (w *world) accepted(t testing.TB, what, token string) registry.Actor {
	t.Helper()
	a, _, err := w.ActorByToken(context.Background(), token)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	return a
}

func TestClientCredentials(t *testing.T) {
	ctx := context.Background()
	t.Run("a secret gets a token with the scopes that it asks for", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceEnroll, registry.ScopeDeviceRead)
		for _, c := range []struct{ ask, want []string }{
			{nil, []string{registry.ScopeDeviceRead, registry.ScopeDeviceEnroll}},
			{[]string{registry.ScopeDeviceEnroll, registry.ScopeDeviceEnroll}, []string{registry.ScopeDeviceEnroll}},
		} {
			tokens, granted, err := w.ClientCredentials(ctx, f.ID, f.secret.Reveal(), c.ask, from)
			if err != nil || !slices.Equal(granted, c.want) || tokens.TTL != 15*time.Minute || tokens.Refresh.Reveal() != "" {
				t.Fatal(granted, tokens.TTL, err)
			}
			a := w.accepted(t, "token", tokens.Access.Reveal())
			if a.Kind != registry.ActorService || a.ID != f.ID || !slices.Equal(a.Scopes, c.want) {
				t.Errorf("%+v", a)
			}
		}
		if e := w.events(t); e["login_succeeded"] != 2 || e["service_account_created"] != 1 {
			t.Errorf("the trail has %v", e)
		}
	})
	t.Run("unknown, wrong, disabled and deleted clients are told alike", func(t *testing.T) {
		w := newWorld(t, nil)
		good, disabled, deleted := w.factory(t, registry.ScopeDeviceRead), w.factory(t, registry.ScopeDeviceRead), w.factory(t, registry.ScopeDeviceRead)
		if err := errors.Join(w.DisableServiceAccount(ctx, registry.System(), disabled.ID), w.DeleteServiceAccount(ctx, registry.System(), deleted.ID)); err != nil {
			t.Fatal(err)
		}
		_, key := w.apiKey(t, good, account.NewKey{})
		for _, c := range [][2]string{
			{good.ID, disabled.secret.Reveal()},
			{good.ID, ""},
			{good.ID, good.secret.Reveal()[1:]},
			{good.ID, good.secret.Reveal() + "="},
			{good.ID, key},
			{disabled.ID, disabled.secret.Reveal()},
			{deleted.ID, deleted.secret.Reveal()},
			{"nobody", good.secret.Reveal()},
			{"", ""},
		} {
			if _, _, err := w.ClientCredentials(ctx, c[0], c[1], nil, from); !errors.Is(err, account.ErrInvalidClient) {
				t.Errorf("%s: %v", c[0], err)
			}
		}
	})
	t.Run("a scope that the account does not have is refused", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		for _, ask := range [][]string{{registry.ScopeDeviceEnroll}, {registry.ScopeDeviceRead, "root"}, {""}, {"DEVICE:READ"}} {
			if _, _, err := w.ClientCredentials(ctx, f.ID, f.secret.Reveal(), ask, from); !errors.Is(err, account.ErrInvalidScope) {
				t.Errorf("%q: %v", ask, err)
			}
		}
	})
	t.Run("a replaced secret and its tokens are refused at once", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		tokens, _, err := w.ClientCredentials(ctx, f.ID, f.secret.Reveal(), nil, from)
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan struct{})
		w.Follow(w.accepted(t, "before", tokens.Access.Reveal()), func() { close(told) })
		fresh, err := w.RotateClientSecret(ctx, registry.System(), f.ID)
		if err != nil {
			t.Fatal(err)
		}
		<-told
		w.refused(t, "a token of the old secret", tokens.Access.Reveal())
		if _, _, err := w.ClientCredentials(ctx, f.ID, f.secret.Reveal(), nil, from); !errors.Is(err, account.ErrInvalidClient) {
			t.Errorf("the old secret: %v", err)
		}
		if tokens, _, err = w.ClientCredentials(ctx, f.ID, fresh.Reveal(), nil, from); err != nil {
			t.Fatal(err)
		}
		w.accepted(t, "a token of the new secret", tokens.Access.Reveal())
	})
	t.Run("a restart does not forgive", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		tokens, _, err := w.ClientCredentials(ctx, f.ID, f.secret.Reveal(), nil, from)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.DeleteServiceAccount(ctx, registry.System(), f.ID); err != nil {
			t.Fatal(err)
		}
		again, err := account.New(w.db.Accounts(), w.reg, account.Options{SigningKey: w.signing, Now: w.clock.Now, Hash: cheap()})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := again.ActorByToken(ctx, tokens.Access.Reveal()); !errors.Is(err, account.ErrInvalidToken) {
			t.Error(err)
		}
	})
}

func TestAPIKeys(t *testing.T) {
	ctx := context.Background()
	system := registry.System()
	t.Run("a key is good until it is revoked, and then at once no more", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead, registry.ScopeDeviceEnroll)
		c, key := w.apiKey(t, f, account.NewKey{Scopes: []string{registry.ScopeDeviceEnroll}})
		_, other := w.apiKey(t, f, account.NewKey{})
		if !strings.HasPrefix(key, "bk_"+c.ID+"_") {
			t.Errorf("the key does not begin with its id")
		}
		a := w.accepted(t, "key", key)
		if a.Kind != registry.ActorService || a.ID != f.ID || !slices.Equal(a.Scopes, []string{registry.ScopeDeviceEnroll}) {
			t.Errorf("%+v", a)
		}
		var calls atomic.Int32
		told := make(chan struct{})
		w.Follow(a, func() { calls.Add(1); close(told) })
		for range 2 { // again changes nothing
			if err := w.RevokeAPIKey(ctx, system, f.ID, c.ID); err != nil {
				t.Fatal(err)
			}
		}
		<-told
		w.refused(t, "the revoked key", key)
		w.accepted(t, "the account's other key", other)
		if n := w.events(t)["api_key_revoked"]; n != 1 || calls.Load() != 1 {
			t.Errorf("%d rows in the trail, %d calls", n, calls.Load())
		}
		ended := make(chan struct{})
		w.Follow(a, func() { close(ended) })
		<-ended // at once: it is over already
	})
	t.Run("a disabled account's keys come back when it is enabled, revoked ones do not", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		_, key := w.apiKey(t, f, account.NewKey{})
		c, revoked := w.apiKey(t, f, account.NewKey{})
		a := w.accepted(t, "before", key)
		if err := errors.Join(w.RevokeAPIKey(ctx, system, f.ID, c.ID), w.DisableServiceAccount(ctx, system, f.ID)); err != nil {
			t.Fatal(err)
		}
		w.refused(t, "disabled", key)
		if err := w.EnableServiceAccount(ctx, system, f.ID); err != nil {
			t.Fatal(err)
		}
		w.accepted(t, "enabled", key)
		w.refused(t, "revoked", revoked)
		stop := w.Follow(a, func() { t.Error("a session of an enabled account was ended") })
		if err := w.EnableServiceAccount(ctx, system, f.ID); err != nil { // again changes nothing
			t.Fatal(err)
		}
		stop()
	})
	t.Run("a key ends when it expires", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		end := w.clock.Now().Add(time.Hour)
		_, key := w.apiKey(t, f, account.NewKey{ExpiresAt: end})
		if _, until, err := w.ActorByToken(ctx, key); err != nil || !until.Equal(end) {
			t.Error(until, err)
		}
		w.clock.Add(time.Hour)
		w.refused(t, "expired", key)
		_, forever := w.apiKey(t, f, account.NewKey{})
		if _, until, err := w.ActorByToken(ctx, forever); err != nil || !until.IsZero() {
			t.Error(until, err)
		}
	})
	t.Run("nothing that is almost a key is one", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		_, key := w.apiKey(t, f, account.NewKey{})
		c, other := w.apiKey(t, f, account.NewKey{})
		cut := strings.LastIndex(key, "_")
		if i := strings.Index(key[3:], "_"); i > 0 {
			cut = 3 + i
		}
		for _, text := range []string{
			key[:len(key)-1], key + "A", strings.ToUpper(key), " " + key, key + "\n", "bk__", "bk_", "bk_" + c.ID, "bk_" + c.ID + "_",
			"bk_" + c.ID + key[cut:], // another key's id
			key[:cut] + other[len("bk_")+len(c.ID):],
			"bk_" + c.ID + "_" + f.secret.Reveal(), // the client secret
			strings.Replace(key, "bk_", "bk_0", 1),
			key[:len(key)-1] + "=",
		} {
			w.refused(t, fmt.Sprintf("%d bytes", len(text)), text)
		}
		w.accepted(t, "the key itself", key)
		// The client secret's own credential is no API key.
		tokens, _, err := w.ClientCredentials(ctx, f.ID, f.secret.Reveal(), nil, from)
		if err != nil {
			t.Fatal(err)
		}
		w.refused(t, "a client secret as a key", "bk_"+w.accepted(t, "token", tokens.Access.Reveal()).SessionID+"_"+f.secret.Reveal())
	})
	t.Run("an account has at most twenty live keys", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		var last account.ServiceCredential
		for range 20 {
			last, _ = w.apiKey(t, f, account.NewKey{})
		}
		if _, _, err := w.CreateAPIKey(ctx, system, f.ID, account.NewKey{Name: "x"}); !errors.Is(err, account.ErrTooManyKeys) {
			t.Error(err)
		}
		if err := w.RevokeAPIKey(ctx, system, f.ID, last.ID); err != nil {
			t.Fatal(err)
		}
		w.apiKey(t, f, account.NewKey{})
	})
	t.Run("the last use is known to a minute, and waited for by nobody", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		_, key := w.apiKey(t, f, account.NewKey{})
		used := func() time.Time {
			list, err := w.APIKeys(ctx, system, f.ID)
			if err != nil || len(list) != 1 {
				t.Fatal(err)
			}
			return list[0].LastUsedAt
		}
		wait := func(want time.Time) {
			deadline := time.Now().Add(5 * time.Second)
			for !used().Equal(want) {
				if time.Now().After(deadline) {
					t.Fatalf("last used at %v, want %v", used(), want)
				}
				time.Sleep(time.Millisecond)
			}
		}
		first := w.clock.Now()
		w.accepted(t, "first", key)
		wait(first)
		w.clock.Add(59 * time.Second)
		w.accepted(t, "within the minute", key)
		w.clock.Add(time.Second)
		second := w.clock.Now()
		w.accepted(t, "after the minute", key)
		wait(second)
	})
	t.Run("a key is checked without the database once it has been used", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		_, key := w.apiKey(t, f, account.NewKey{})
		w.accepted(t, "first", key)
		gone, cancel := context.WithCancel(ctx)
		cancel() // whatever reads the database fails
		if _, _, err := w.ActorByToken(gone, key); err != nil {
			t.Error(err)
		}
	})
	t.Run("secrets redact themselves", func(t *testing.T) {
		w := newWorld(t, nil)
		f := w.factory(t, registry.ScopeDeviceRead)
		c, key := w.apiKey(t, f, account.NewKey{})
		text, err := json.Marshal([]any{f.secret, c})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{string(text), fmt.Sprintf("%v %+v %#v %x %v", f.secret, f.secret, c, c, f.ServiceAccount), w.logs.String()} {
			if strings.Contains(s, f.secret.Reveal()) || strings.Contains(s, key[20:]) {
				t.Errorf("a secret shows in %.300s", s)
			}
		}
	})
}

// FuzzAPIKey: no text but that of a key is taken for one.
func FuzzAPIKey(f *testing.F) {
	const id, secret = "0123456789abcdef", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for _, s := range []string{"bk_" + id + "_" + secret, "bk_", "bk__", "bk_" + id, "bk_" + id + "_", "bk_" + strings.Repeat("_", 60), "bk_" + id + "_" + secret + "\n", "eyJ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, _, ok := account.ParseAPIKey(text)
		if !ok {
			return
		}
		if len(text) != 63 || len(id) != 16 || !strings.HasPrefix(text, "bk_"+id+"_") || strings.Trim(id, "0123456789abcdef") != "" {
			t.Errorf("%q is taken for the key %q", text, id)
		}
	})
}
