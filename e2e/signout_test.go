package e2e_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// refused is the code of an answer that refuses.
type refused struct {
	Error string `json:"error"`
}

// renew shows a refresh token.
func (c *Cloud) renew(token, installID string) (next User, status int, code string) {
	c.t.Helper()
	var answer struct {
		refused
		Token   string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		User    struct {
			ID string `json:"user_id"`
		} `json:"user"`
	}
	status = c.Do(http.MethodPost, "/api/v1/auth/refresh", "", map[string]string{"refresh_token": token, "install_id": installID}, &answer)
	return User{ID: answer.User.ID, Token: answer.Token, Refresh: answer.Refresh}, status, answer.Error
}

// me is the status of GET /api/me.
func (c *Cloud) me(token string) int {
	c.t.Helper()
	return c.Do(http.MethodGet, "/api/me", token, nil, nil)
}

// A person's day: sign in, refresh, be signed in elsewhere, sign out, and stay out
// when the program is killed and comes back.
func TestSignInToSignOut(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]func(t *testing.T) map[string]string{
		"on SQLite":     func(*testing.T) map[string]string { return nil },
		"on PostgreSQL": func(t *testing.T) map[string]string { return map[string]string{"DATABASE_URL": postgres.URL(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			c := Start(t, Options{Process: true, Env: env(t)})
			const email = "day@example.com"
			d := c.Enroll()
			c.Sell(d, email)
			if err := Provision(c.Connect(d), d); err != nil {
				t.Fatal(err)
			}
			phone, tablet := c.UserToken(email), c.UserToken(email)

			next, status, _ := c.renew(phone.Refresh, installID)
			if status != http.StatusOK || next.ID != phone.ID || next.Refresh == phone.Refresh {
				t.Fatalf("the refresh answers %d", status)
			}
			if _, status, code := c.renew(phone.Refresh, installID); status != http.StatusConflict || code != "refresh_in_progress" {
				t.Errorf("the same token at once again: %d %s", status, code)
			}
			phone = User{phone.ID, email, next.Token, next.Refresh}

			v4 := c.open(t, personHello(phone, "phone", mqttwire.V311))
			v5 := c.open(t, personHello(phone, "other", mqttwire.V5))
			stays := c.open(t, personHello(tablet, "tablet", mqttwire.V5))
			var list struct {
				Sessions []struct {
					SID     string `json:"sid"`
					Current bool   `json:"current"`
				} `json:"sessions"`
			}
			c.Get("/api/me/sessions", phone.Token, &list)
			if len(list.Sessions) != 2 || list.Sessions[0].Current || !list.Sessions[1].Current {
				t.Errorf("the sessions are %+v", list)
			}

			var out struct {
				Revoked bool `json:"revoked"`
			}
			if status := c.Do(http.MethodDelete, "/api/auth/app-token", phone.Token, map[string]string{"refresh_token": phone.Refresh}, &out); status != http.StatusOK || !out.Revoked {
				t.Fatalf("the sign-out answers %d", status)
			}
			if status := c.me(phone.Token); status != http.StatusUnauthorized {
				t.Errorf("the token is answered %d", status)
			}
			for _, client := range []*mqttwire.Client{v4, v5} {
				if _, closed := closedWithin(client, time.Second); !closed {
					t.Error("the MQTT session is still open after a second")
				}
			}
			if err := stays.Ping(); err != nil {
				t.Errorf("the tablet's session ended too: %v", err)
			}

			c.Kill()
			c.Restart()
			if status := c.me(phone.Token); status != http.StatusUnauthorized {
				t.Errorf("after a kill the token is answered %d", status)
			}
			if _, _, err := c.try(personHello(phone, "phone", mqttwire.V5)); refusalCode(err) != mqttwire.BadUserNameOrPassword {
				t.Errorf("after a kill the token connects: %v", err)
			}
			if _, status, code := c.renew(phone.Refresh, installID); status != http.StatusUnauthorized || code != "invalid_token" {
				t.Errorf("after a kill the refresh token is answered %d %s", status, code)
			}
			if status := c.me(tablet.Token); status != http.StatusOK {
				t.Errorf("the tablet is answered %d", status)
			}

			// A stolen token of the tablet ends the tablet, too.
			if next, status, _ = c.renew(tablet.Refresh, installID); status != http.StatusOK {
				t.Fatalf("the tablet's refresh answers %d", status)
			}
			if _, status, code := c.renew(tablet.Refresh, "thief"); status != http.StatusUnauthorized || code != "invalid_token" {
				t.Errorf("the thief is answered %d %s", status, code)
			}
			if status := c.me(next.Token); status != http.StatusUnauthorized {
				t.Errorf("what was stolen from is answered %d", status)
			}
		})
	}
}

func TestOneOfManyRefreshesWins(t *testing.T) {
	t.Parallel()
	for engine, env := range map[string]func(t *testing.T) map[string]string{
		"on SQLite":     func(*testing.T) map[string]string { return nil },
		"on PostgreSQL": func(t *testing.T) map[string]string { return map[string]string{"DATABASE_URL": postgres.URL(t)} },
	} {
		t.Run(engine, func(t *testing.T) {
			c := Start(t, Options{Env: env(t)})
			t.Run("and the others of its installation wait", func(t *testing.T) {
				c := c.For(t)
				u := c.UserToken("race@example.com")
				if got := c.refreshAtOnce(u.Refresh, installID); !maps.Equal(got, map[int]int{http.StatusOK: 1, http.StatusConflict: 99}) {
					t.Errorf("the answers are %v", got)
				}
				if status := c.me(u.Token); status != http.StatusOK {
					t.Errorf("the session is answered %d", status)
				}
			})
			t.Run("and the session ends when they are strangers", func(t *testing.T) {
				c := c.For(t)
				u := c.UserToken("race@example.com")
				// The thief that wins is given the pair, until the second one shows the token.
				if got := c.refreshAtOnce(u.Refresh, "thief"); !maps.Equal(got, map[int]int{http.StatusOK: 1, http.StatusUnauthorized: 99}) {
					t.Errorf("the answers are %v", got)
				}
				if status := c.me(u.Token); status != http.StatusUnauthorized {
					t.Errorf("the session is answered %d", status)
				}
			})
		})
	}
}

// refreshAtOnce shows one refresh token a hundred times at once and counts the
// statuses.
func (c *Cloud) refreshAtOnce(token, installID string) map[int]int {
	c.t.Helper()
	body, err := json.Marshal(map[string]string{"refresh_token": token, "install_id": installID})
	if err != nil {
		c.t.Fatal(err)
	}
	statuses := make([]int, 100)
	var wg sync.WaitGroup
	for i := range statuses {
		wg.Go(func() {
			res, err := c.client.Post(c.API()+"/api/v1/auth/refresh", "application/json", bytes.NewReader(body))
			if err != nil {
				c.t.Error(err)
				return
			}
			statuses[i] = res.StatusCode
			_ = res.Body.Close()
		})
	}
	wg.Wait()
	counts := map[int]int{}
	for _, s := range statuses {
		counts[s]++
	}
	return counts
}

// A person who is erased is nowhere any more: not in an answer, not on MQTT, and not
// in one byte of what is on the disk.
func TestErasure(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	const email = "canary-erased@example.com"
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	c.Sell(d, email)
	device := c.Connect(d)
	if err := Provision(device, d); err != nil {
		t.Fatal(err)
	}
	u := c.UserToken(email)
	c.AwaitDevice(d, admin, "owned", func(v DeviceView) bool { return v.Owner != nil && v.Owner.UserID == u.ID })
	app := c.open(t, personHello(u, "phone", mqttwire.V5))
	if _, err := app.Subscribe(mqttwire.Filter{Topic: d.Topic("state"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	var out struct {
		Erased bool `json:"erased"`
	}
	if status := c.Do(http.MethodDelete, "/api/me", u.Token, nil, &out); status != http.StatusOK || !out.Erased {
		t.Fatalf("the erasure answers %d", status)
	}
	if _, closed := closedWithin(app, time.Second); !closed {
		t.Error("the MQTT session is still open after a second")
	}
	for _, path := range []string{"/api/me", "/api/devices", "/api/devices/" + d.ID} {
		if status := c.Do(http.MethodGet, path, u.Token, nil, nil); status != http.StatusUnauthorized {
			t.Errorf("GET %s answers %d", path, status)
		}
	}
	if v := c.Look(d, admin); v.Owner != nil || !v.Online {
		t.Errorf("the device is %+v", v)
	}
	if err := Report(device, d, 9); err != nil {
		t.Errorf("the device is disturbed: %v", err)
	}
	again := c.UserToken(email)
	if again.ID == u.ID {
		t.Error("the same person came back")
	}
	if status := c.Do(http.MethodDelete, "/api/me", again.Token, nil, nil); status != http.StatusOK {
		t.Errorf("the second erasure answers %d", status)
	}
	c.Stop()
	err := filepath.WalkDir(c.DataDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && bytes.Contains(content, []byte("canary-erased")) {
			t.Errorf("the e-mail is in %s", filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(c.Log(), "canary-erased") {
		t.Error("the e-mail is in the log")
	}
}

// A new signing key is published within seconds of its file's change, and nobody
// notices.
func TestSigningKeyFileIsFollowed(t *testing.T) {
	t.Parallel()
	here := newSite(t)
	env := here.settings(t)
	c := Start(t, Options{Production: true, Env: env, TLS: here.client()})
	admin := c.AdminToken()
	kids := func() (ids []string) {
		var set struct {
			Keys []struct {
				ID string `json:"kid"`
			} `json:"keys"`
		}
		c.Get("/.well-known/jwks.json", "", &set)
		for _, k := range set.Keys {
			ids = append(ids, k.ID)
		}
		return ids
	}
	old := kids()
	_, text, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	file := env["TOKEN_SIGNING_KEY_FILE"]
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	Await(t, 15*time.Second, func() bool { return len(kids()) == 2 }, func() string { return "the new key is not published" })
	if !slices.Contains(kids(), old[0]) {
		t.Error("the old key is not published any more")
	}
	for _, token := range []string{admin, c.AdminToken()} {
		if status := c.me(token); status != http.StatusOK {
			t.Errorf("a token is answered %d", status)
		}
	}
	if err := os.WriteFile(file, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	Await(t, 15*time.Second, func() bool { return strings.Contains(c.Log(), "the signing keys cannot be read anew") }, func() string { return "nobody complains about the broken file" })
	if status := c.me(c.AdminToken()); status != http.StatusOK || len(kids()) != 2 {
		t.Errorf("after a broken file: %d, %v", status, kids())
	}
}
