package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// refresh shows a refresh token as an installation, "" for one without a name.
func (c *Cloud) refresh(t *testing.T, token, install string) (status int, code string, next map[string]any) {
	t.Helper()
	body := map[string]string{"refresh_token": token}
	if install != "" {
		body["install_id"] = install
	}
	r := c.exchange(t, request{method: http.MethodPost, path: "/api/v1/auth/refresh", body: string(must2(json.Marshal(body)))})
	if err := json.Unmarshal([]byte(r.body), &next); err != nil {
		t.Errorf("%d %s: %v", r.status, r.body, err)
	}
	code, _ = next["error"].(string)
	return r.status, code, next
}

// race shows one token many times at once, and counts the answers.
func (c *Cloud) race(t *testing.T, times int, token, install string) (answers map[string]int, winner map[string]any) {
	t.Helper()
	type outcome struct {
		what string
		next map[string]any
	}
	all := make([]outcome, times)
	inParallel(times, times, func(i int) {
		status, code, next := c.refresh(t, token, install)
		all[i] = outcome{fmt.Sprint(status, " ", code), next}
	})
	answers = map[string]int{}
	for _, o := range all {
		answers[o.what]++
		if o.what == "200 " {
			winner = o.next
		}
	}
	return answers, winner
}

// dead checks that tokens of a session open nothing, and that this looks like no token
// at all.
func (c *Cloud) dead(t *testing.T, u User, access, refresh string) {
	t.Helper()
	bare := c.exchange(t, request{method: http.MethodGet, path: "/api/me"})
	if diff := sameButForTheRequest(bare, c.exchange(t, request{method: http.MethodGet, path: "/api/me", token: access})); diff != "" {
		t.Errorf("the access token still tells something:\n%s", diff)
	}
	if status, code, _ := c.refresh(t, refresh, "install-1"); status != http.StatusUnauthorized || code != "invalid_token" {
		t.Errorf("the refresh token gets %d %s", status, code)
	}
	for _, v := range bothVersions {
		client, _, err := c.try(personHello(User{ID: u.ID, Token: access}, "dead", v))
		if err == nil {
			_ = client.Close()
			t.Errorf("MQTT %s lets the access token in", v)
		}
	}
}

func TestRefreshTokensOverTheWire(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "info"}})
	signIn := func(t *testing.T, email string) (u User, access, refresh string) {
		answer := c.login(t, email)
		u = User{ID: claimOf(t, answer["access_token"].(string), "sub"), Email: email}
		return u, answer["access_token"].(string), answer["refresh_token"].(string)
	}
	t.Run("of 50 at once of nobody knows whom one gets the pair, and it is worth nothing", func(t *testing.T) {
		u, access, r1 := signIn(t, "thief@example.com")
		answers, winner := c.race(t, 50, r1, "")
		if answers["200 "] != 1 || answers["401 invalid_token"] != 49 {
			t.Fatalf("answers %v", answers)
		}
		c.dead(t, u, access, r1)
		c.dead(t, u, winner["access_token"].(string), winner["refresh_token"].(string))
	})
	t.Run("one that comes back after 10 seconds ends the session, and its streams", func(t *testing.T) {
		u, access, r1 := signIn(t, "replayed@example.com")
		other := c.login(t, "replayed@example.com") // another phone of the same person
		status, _, pair := c.refresh(t, r1, "install-1")
		if status != http.StatusOK {
			t.Fatal(status)
		}
		client := c.open(t, personHello(User{ID: u.ID, Token: pair["access_token"].(string)}, "phone", mqttwire.V5))
		if _, err := client.Subscribe(mqttwire.Filter{Topic: topicRoot + "/+/state", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if status, code, _ := c.refresh(t, r1, "install-1"); status != http.StatusConflict || code != "refresh_in_progress" {
			t.Errorf("within 10 seconds: %d %s", status, code)
		}
		time.Sleep(10*time.Second + 200*time.Millisecond) // the contract's own time
		if status, code, _ := c.refresh(t, r1, "install-1"); status != http.StatusUnauthorized || code != "invalid_token" {
			t.Errorf("after 10 seconds: %d %s", status, code)
		}
		if _, closed := closedWithin(client, time.Second*stretch); !closed {
			t.Error("the session's MQTT connection stays open")
		}
		c.dead(t, u, access, r1)
		c.dead(t, u, pair["access_token"].(string), pair["refresh_token"].(string))
		if r := c.exchange(t, request{method: http.MethodGet, path: "/api/me", token: other["access_token"].(string)}); r.status != http.StatusOK {
			t.Errorf("the other phone gets %d", r.status)
		}
		var trail struct {
			Events []struct{ Data map[string]any }
		}
		c.Get("/admin/audit?event=refresh_reuse_detected&limit=200", c.AdminToken(), &trail)
		found := false
		for _, e := range trail.Events {
			found = found || e.Data["sid"] == claimOf(t, access, "sid")
		}
		if !found {
			t.Errorf("the trail says nothing of it: %+v", trail)
		}
	})
	t.Run("what was revoked stays so when the program starts again", func(t *testing.T) {
		u, access, r1 := signIn(t, "gone@example.com")
		_, kept, _ := signIn(t, "kept@example.com")
		if r := c.exchange(t, request{method: http.MethodDelete, path: "/api/auth/app-token", token: access}); r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		c.dead(t, u, access, r1)
		c.Restart()
		c.dead(t, u, access, r1)
		if r := c.exchange(t, request{method: http.MethodGet, path: "/api/me", token: kept}); r.status != http.StatusOK {
			t.Errorf("what was not revoked gets %d", r.status)
		}
	})
	t.Run("staff are refreshed by the same rules", func(t *testing.T) {
		c.hire(t, "staff-refresh@example.com", account.AdminRoleSupport)
		var answer map[string]any
		c.Post("/admin/auth/login", "", map[string]string{"email": "staff-refresh@example.com", "password": adminPassword}, &answer)
		answers, winner := c.race(t, 20, answer["refresh_token"].(string), "")
		if answers["200 "] != 1 || answers["401 invalid_token"] != 19 {
			t.Errorf("answers %v", answers)
		}
		if r := c.exchange(t, request{method: http.MethodGet, path: "/api/me", token: winner["access_token"].(string)}); r.status != http.StatusUnauthorized {
			t.Errorf("after a race of thieves %d", r.status)
		}
	})
}
