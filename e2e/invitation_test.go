package e2e_test

import (
	"net/http"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// mailsTo are the texts of the mails in the outbox to an address.
func (c *Cloud) mailsTo(t *testing.T, address string) (texts []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.DataDir(), "outbox", "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mail.ReadMessage(strings.NewReader(string(raw)))
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if to, err := m.Header.AddressList("To"); err == nil && to[0].Address == address {
			texts = append(texts, string(raw))
		}
	}
	return texts
}

// TestInvitedPeopleGetAMail shares a device with somebody who is known and with somebody
// who is not, and gives it away: in dev mode the mails are files.
func TestInvitedPeopleGetAMail(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	d := c.Enroll()
	owner, guest := c.UserToken("owner@example.com"), c.UserToken("guest@example.com")
	c.Sell(d, owner.Email)
	if err := exchange(c.open(t, deviceHello(d, mqttwire.V311)), d); err != nil {
		t.Fatal(err)
	}
	if status := c.Do(http.MethodPatch, "/api/devices/"+d.ID, owner.Token, object{"name": "Hall: see evil.example"}, nil); status != http.StatusOK {
		t.Fatalf("renamed: %d", status)
	}
	for _, tc := range []struct {
		path, to string
		body     object
		says     string
	}{
		{"share", guest.Email, object{"role": "viewer"}, "invites you to use the device \"Hall see evil example\""},
		{"share", "nobody@example.com", object{"role": "admin"}, "role: admin"},
		{"transfer", "heir@example.com", object{}, "offers to give you the device"},
	} {
		tc.body["user_email"] = tc.to
		c.Post("/api/devices/"+d.ID+"/"+tc.path, owner.Token, tc.body, nil)
		var texts []string
		Await(t, stretch*5*time.Second, func() bool {
			texts = c.mailsTo(t, tc.to)
			return len(texts) > 0
		}, func() string { return "no mail to " + tc.to })
		if len(texts) != 1 || !strings.Contains(texts[0], tc.says) || !strings.Contains(texts[0], owner.Email) || !strings.Contains(texts[0], "expires on") {
			t.Errorf("to %s: %q", tc.to, texts)
		}
		if strings.Contains(texts[0], owner.Token) || strings.Contains(texts[0], "#token") {
			t.Errorf("it holds a secret: %s", texts[0])
		}
	}
	c.accept(t, guest)
	if r := c.roleOf(t, guest, d); r != "viewer" {
		t.Errorf("the guest is %q", r)
	}
}
