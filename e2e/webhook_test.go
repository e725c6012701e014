package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// hookView is a webhook as the API shows it.
type hookView struct {
	ID             string `json:"id"`
	Secret         string `json:"secret"`
	Enabled        bool   `json:"enabled"`
	DisabledReason string `json:"disabled_reason"`
	Error          string `json:"error"`
}

// deliveryView is a delivery as the API shows it.
type deliveryView struct {
	ID       string  `json:"id"`
	Type     string  `json:"type"`
	Status   string  `json:"status"`
	Attempts int     `json:"attempts"`
	Answer   *int    `json:"answer"`
	Error    *string `json:"error"`
}

// hook registers a webhook.
func (c *Cloud) hook(admin, url string, events ...string) (v hookView) {
	c.t.Helper()
	c.Post("/admin/webhooks", admin, object{"url": url, "events": events, "description": "a receiver of the tests"}, &v)
	return v
}

func (c *Cloud) deliveries(admin, id, status string) []deliveryView {
	c.t.Helper()
	var list struct{ Deliveries []deliveryView }
	c.Get("/admin/webhooks/"+id+"/deliveries?limit=200&status="+status, admin, &list)
	return list.Deliveries
}

// received is a message that a receiver has verified with the official library.
type received struct {
	ID, Type, Device string
	Data             map[string]any
	Signatures       int
}

// receiver is a program outside. serve decides what it answers to a message that it has
// verified, 204 without it.
type receiver struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	secrets []string // any of them verifies
	serve   func(received, http.ResponseWriter, *http.Request)
	got     []received
	forged  int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	ok := false
	for _, secret := range r.secrets {
		wh, werr := standardwebhooks.NewWebhook(secret)
		ok = ok || werr == nil && err == nil && wh.Verify(body, req.Header) == nil
	}
	var message struct {
		Type string
		Data map[string]any
	}
	if !ok || json.Unmarshal(body, &message) != nil {
		r.forged++
		r.mu.Unlock()
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	m := received{
		ID: req.Header.Get("webhook-id"), Type: message.Type, Data: message.Data,
		Signatures: len(strings.Fields(req.Header.Get("webhook-signature"))),
	}
	m.Device, _ = message.Data["device_id"].(string)
	r.got = append(r.got, m)
	serve := r.serve
	r.mu.Unlock()
	if serve != nil {
		serve(m, w, req)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// trust makes the receiver verify by a secret too.
func (r *receiver) trust(secret string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets, secret)
}

// answers replaces what the receiver answers.
func (r *receiver) answers(serve func(received, http.ResponseWriter, *http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serve = serve
}

// messages are those about a device, "" all; forged are those that were not ours.
func (r *receiver) messages(device string) (list []received, forged int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.got {
		if device == "" || m.Device == device {
			list = append(list, m)
		}
	}
	return list, r.forged
}

// await waits for a number of messages about a device.
func (r *receiver) await(device string, n int, limit time.Duration) (list []received) {
	r.t.Helper()
	Await(r.t, limit, func() bool {
		list, _ = r.messages(device)
		return len(list) >= n
	}, func() string { return fmt.Sprintf("want %d messages; the receiver has %+v", n, list) })
	return list
}

func types(list []received) (all []string) {
	for _, m := range list {
		all = append(all, m.Type)
	}
	return all
}

func TestWebhooks(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	t.Run("a device's life arrives, verified and in order", func(t *testing.T) {
		c, r := c.For(t), newReceiver(t)
		h := c.hook(admin, r.URL, "device.online", "device.offline", "device.provisioned", "device.claimed", "device.shared", "device.released", "command.completed")
		r.trust(h.Secret)
		owner, guest := c.UserToken("hooks-owner@example.com"), c.UserToken("hooks-guest@example.com")
		d := c.EnrollAs(admin)
		c.Sell(d, owner.Email)
		client := c.Connect(d)
		if err := Provision(client, d); err != nil {
			t.Fatal(err)
		}
		c.Post("/api/devices/"+d.ID+"/share", owner.Token, object{"user_email": guest.Email, "role": "viewer"}, nil)
		var inv struct {
			Invitations []struct {
				ID string `json:"invitation_id"`
			}
		}
		c.Get("/api/invitations", guest.Token, &inv)
		c.Post("/api/invitations/"+inv.Invitations[0].ID+"/accept", guest.Token, nil, nil)
		v := c.send(d, owner.Token, "r1", "identify", object{"ttlSec": 600})
		if status := c.Do(http.MethodDelete, "/api/devices/"+d.ID+"/commands/"+v.ID, owner.Token, nil, nil); status != http.StatusOK && status != http.StatusConflict {
			t.Fatalf("cancelled: %d", status)
		}
		client.Disconnect(250)
		c.AwaitDevice(d, admin, "it is offline", func(v DeviceView) bool { return v.Status == "offline" })
		if status := c.Do(http.MethodDelete, "/api/devices/"+d.ID, owner.Token, nil, nil); status != http.StatusOK {
			t.Fatalf("released: %d", status)
		}
		list := r.await(d.ID, 7, 30*time.Second)
		got := types(list)
		for _, want := range []string{"device.online", "device.claimed", "device.provisioned", "device.shared", "device.offline", "device.released"} {
			if count(got, want) != 1 {
				t.Errorf("%d of %s in %v", count(got, want), want, got)
			}
		}
		if count(got, "command.completed") != 1 || got[0] != "device.online" || slices.Index(got, "device.offline") > slices.Index(got, "device.released") {
			t.Errorf("the order is %v", got)
		}
		for _, m := range list {
			switch {
			case m.Type == "device.provisioned" && (m.Data["owner_user_id"] != owner.ID || m.Data["firmware_version"] == ""),
				m.Type == "device.claimed" && (m.Data["owner_user_id"] != owner.ID || m.Data["via"] != "purchase"),
				m.Type == "device.shared" && (m.Data["user_id"] != guest.ID || m.Data["role"] != "viewer"),
				m.Type == "command.completed" && (m.Data["commandId"] != v.ID || m.Data["requestId"] != "r1"):
				t.Errorf("%+v", m)
			}
		}
		if _, forged := r.messages(""); forged != 0 {
			t.Errorf("%d messages did not verify", forged)
		}
	})
	t.Run("the secret is shown once, rotates with both signatures, and a delivery is sent again", func(t *testing.T) {
		c, r := c.For(t), newReceiver(t)
		h := c.hook(admin, r.URL, "device.self_enrolled")
		r.trust(h.Secret)
		var test deliveryView
		c.Post("/admin/webhooks/"+h.ID+"/test", admin, nil, &test)
		if m := r.await("", 1, 15*time.Second)[0]; m.Type != "webhook.test" || m.ID != test.ID || m.Signatures != 1 {
			t.Errorf("%+v", m)
		}
		var shown, rotated hookView
		c.Get("/admin/webhooks/"+h.ID, admin, &shown)
		c.Post("/admin/webhooks/"+h.ID+"/rotate", admin, nil, &rotated)
		if shown.Secret != "" || rotated.Secret == "" || rotated.Secret == h.Secret {
			t.Error("the secret is shown again, or is the same after a rotation")
		}
		Await(t, 15*time.Second, func() bool { return len(c.deliveries(admin, h.ID, "delivered")) == 1 }, func() string { return "it is not delivered" })
		c.Post("/admin/webhooks/"+h.ID+"/deliveries/"+test.ID+"/replay", admin, nil, nil)
		again := r.await("", 2, 15*time.Second)[1]
		if again.ID != test.ID || again.Signatures != 2 {
			t.Errorf("sent again: %+v", again)
		}
	})
	t.Run("a receiver that is gone is disabled, and one that redirects or fails is tried again", func(t *testing.T) {
		c, gone, moved, other := c.For(t), newReceiver(t), newReceiver(t), newReceiver(t)
		answer := func(r *receiver, code int) hookView {
			h := c.hook(admin, r.URL, "device.self_enrolled")
			r.trust(h.Secret)
			r.answers(func(_ received, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", other.URL)
				w.WriteHeader(code)
			})
			c.Post("/admin/webhooks/"+h.ID+"/test", admin, nil, nil)
			return h
		}
		g, m := answer(gone, http.StatusGone), answer(moved, http.StatusTemporaryRedirect)
		Await(t, 15*time.Second, func() bool {
			var v hookView
			c.Get("/admin/webhooks/"+g.ID, admin, &v)
			return !v.Enabled && v.DisabledReason == "gone"
		}, func() string { return "it is not disabled" })
		Await(t, 15*time.Second, func() bool {
			list := c.deliveries(admin, m.ID, "waiting")
			return len(list) == 1 && list[0].Error != nil && *list[0].Error == "redirected" && *list[0].Answer == http.StatusTemporaryRedirect
		}, func() string { return fmt.Sprintf("%+v", c.deliveries(admin, m.ID, "")) })
		if list, forged := other.messages(""); len(list)+forged != 0 {
			t.Error("a redirect was followed")
		}
		if c.Metric(`webhook_endpoints_disabled_total`) != 1 || c.Metric(`webhook_attempts_total{result="retried"}`) < 1 {
			t.Error("the metrics do not say so")
		}
		if count(c.auditTrail(admin, "webhook_disabled"), g.ID) != 1 {
			t.Error("it is not in the audit trail")
		}
	})
}

// auditTrail lists the webhooks that an event of the trail names.
func (c *Cloud) auditTrail(admin, event string) (ids []string) {
	c.t.Helper()
	var trail struct {
		Events []struct {
			Data struct {
				ID string `json:"webhook_id"`
			}
		}
	}
	c.Get("/admin/audit?limit=200&event="+event, admin, &trail)
	for _, e := range trail.Events {
		ids = append(ids, e.Data.ID)
	}
	return ids
}

// The page for receivers tells of a receiver that works.
func TestTheReceiverOfTheDocumentationVerifiesWhatWeSend(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile("testdata/webhook_receiver.mjs")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/webhooks.md")
	if err != nil || !strings.Contains(string(page), "```js\n"+string(program)+"```") {
		t.Errorf("docs/webhooks.md shows another program than testdata/webhook_receiver.mjs, %v", err)
	}
	skipWithout(t, "standardwebhooks", haveProgram("node") && exec.Command("node", "-e", "require('./node_modules/standardwebhooks')").Run() == nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	c := Start(t, Options{})
	admin := c.AdminToken()
	h := c.hook(admin, "http://"+address+"/hooks", "device.online", "device.provisioned", "device.self_enrolled")

	cmd := exec.Command("node", "testdata/webhook_receiver.mjs")
	cmd.Env = append(os.Environ(), "WEBHOOK_SECRET="+h.Secret, "PORT="+port)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	Await(t, 20*time.Second, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, func() string { return "the receiver does not listen" })

	d := c.EnrollAs(admin)
	if err := Provision(c.Connect(d), d); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"device.online", "device.provisioned"} {
		select {
		case line := <-lines:
			if !strings.HasPrefix(line, "msg_") || !strings.Contains(line, want+" {") || !strings.Contains(line, d.ID) {
				t.Errorf("the receiver says %q, want %s", line, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the receiver never heard of %s; %+v", want, c.deliveries(admin, h.ID, ""))
		}
	}
	res, err := http.Post("http://"+address, "application/json", strings.NewReader(`{}`))
	if err != nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("what is not ours: %v, %v", res, err)
	}
	if err == nil {
		_ = res.Body.Close()
	}
}

// A change whose commit was told to a client has its message, whatever happens to the
// program before it could send it.
func TestAKilledProgramSendsWhatItHasCommitted(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Process: true})
	admin := c.AdminToken()
	r := newReceiver(t)
	h := c.hook(admin, r.URL, "device.online", "device.provisioned")
	r.trust(h.Secret)
	release := make(chan struct{})
	r.answers(func(_ received, _ http.ResponseWriter, req *http.Request) { // holds the first message
		select {
		case <-release:
		case <-req.Context().Done():
		}
	})
	d := c.EnrollAs(admin)
	client := c.Connect(d)
	r.await(d.ID, 1, 20*time.Second) // device.online is under way
	if err := Provision(client, d); err != nil {
		t.Fatal(err) // its PUBACK says that it is committed; its message waits behind the first
	}
	c.Kill()
	close(release)
	before, _ := r.messages(d.ID)
	r.answers(nil)
	c.Restart()
	list := r.await(d.ID, len(before)+2, 60*time.Second)[len(before):]
	if list[0].ID != before[0].ID || list[0].Type != "device.online" || list[1].Type != "device.provisioned" {
		t.Errorf("before the kill %+v, after it %+v", before, list)
	}
	Await(t, 20*time.Second, func() bool { return len(c.deliveries(c.AdminToken(), h.ID, "delivered")) == 2 }, func() string {
		return fmt.Sprintf("%+v", c.deliveries(c.AdminToken(), h.ID, ""))
	})
	if _, forged := r.messages(""); forged != 0 {
		t.Errorf("%d messages did not verify", forged)
	}
}
