package httpapi_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/httpapi"
)

// mailer is a mailbox for everybody.
type mailer chan account.Mail

func (m mailer) Send(_ context.Context, mail account.Mail) error {
	m <- mail
	return nil
}

const verifier = "verifier-0123456789-0123456789-0123456789-0123"

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

var linkPattern = regexp.MustCompile(`(?m)^https://cloud\.example\.com/auth/magic#token=([A-Za-z0-9_-]{43})$`)

// link asks for a link and reads its token in the mail.
func (w *world) link(t *testing.T, email string) (token string) {
	t.Helper()
	got := w.do(t, call{method: "POST", path: "/api/auth/app-magic-link", body: object(t, map[string]any{"email": email, "install_id": "phone-1", "code_challenge": challenge(verifier)})})
	if got.status != http.StatusAccepted || len(got.body) != 2 || got.body["sent"] != true || got.body["expires_in"] != 600.0 {
		t.Fatalf("got %d %s", got.status, got.raw)
	}
	select {
	case mail := <-w.mails:
		found := linkPattern.FindStringSubmatch(mail.Text)
		if !strings.EqualFold(mail.To, strings.TrimSpace(email)) || found == nil {
			t.Fatalf("a mail to %s: %s", mail.To, mail.Text)
		}
		return found[1]
	case <-time.After(10 * time.Second):
		t.Fatal("no mail")
	}
	return ""
}

func object(t *testing.T, fields map[string]any) string {
	t.Helper()
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (w *world) verify(t *testing.T, change map[string]any) reply {
	t.Helper()
	body := map[string]any{"token": "", "install_id": "phone-1", "code_verifier": verifier}
	for k, v := range change {
		body[k] = v
	}
	return w.do(t, call{method: "POST", path: "/api/auth/app-magic-link/verify", body: object(t, body)})
}

func TestAMailedLinkSignsItsReaderIn(t *testing.T) {
	w := newWorld(t, nil)
	token := w.link(t, " Ann@Example.COM ")
	got := w.verify(t, map[string]any{"token": token, "device": map[string]any{"platform": "ios", "name": "Ann's phone"}})
	user, _ := got.body["user"].(map[string]any)
	if got.status != http.StatusOK || user["email"] != "ann@example.com" || user["email_verified"] != true || got.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("got %d %s", got.status, got.raw)
	}
	w.tokens["ann"], _ = got.body["access_token"].(string)
	if me := w.do(t, call{method: "GET", path: "/api/me", as: "ann"}); me.status != http.StatusOK {
		t.Errorf("its token: %d %s", me.status, me.raw)
	}
	if logs := w.logs.String(); strings.Contains(logs, token) || strings.Contains(logs, verifier) {
		t.Error("the log holds the token or the verifier")
	}
}

// TestEveryLinkThatIsNotGoodGetsOneAnswer: neither the code nor the body nor a
// header says why.
func TestEveryLinkThatIsNotGoodGetsOneAnswer(t *testing.T) {
	w := newWorld(t, nil)
	used := w.link(t, "a@example.com")
	if got := w.verify(t, map[string]any{"token": used}); got.status != http.StatusOK {
		t.Fatalf("a good link: %d %s", got.status, got.raw)
	}
	expired := w.link(t, "b@example.com")
	w.clock.Add(10 * time.Minute)
	replaced, good := w.link(t, "c@example.com"), w.link(t, "c@example.com")
	request := regexp.MustCompile(`"request_id":"[^"]*"`)
	var first string
	for name, change := range map[string]map[string]any{
		"used":                       {"token": used},
		"expired":                    {"token": expired},
		"replaced by a newer one":    {"token": replaced},
		"unknown":                    {"token": strings.Repeat("A", 43)},
		"no token at all":            {"token": "' OR 1=1--"},
		"a token with a line break":  {"token": good + "\n"},
		"huge":                       {"token": strings.Repeat("A", 12<<10)},
		"of another device":          {"token": good, "install_id": "phone-2"},
		"with another verifier":      {"token": good, "code_verifier": strings.Replace(verifier, "0", "1", 1)},
		"with a verifier cut short":  {"token": good, "code_verifier": verifier[:42]},
		"with the challenge instead": {"token": good, "code_verifier": challenge(verifier)},
		"with a huge verifier":       {"token": good, "code_verifier": strings.Repeat("v", 12<<10)},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.verify(t, change)
			shown := request.ReplaceAllString(got.raw, "")
			if got.status != http.StatusUnauthorized || got.body["error"] != "invalid_token" {
				t.Errorf("got %d %s", got.status, got.raw)
			}
			if first == "" {
				first = shown
			}
			if shown != first {
				t.Errorf("answers %s, another %s", shown, first)
			}
		})
	}
	if got := w.verify(t, map[string]any{"token": good}); got.status != http.StatusOK {
		t.Errorf("the good link after all that: %d %s", got.status, got.raw)
	}
}

func TestWhatALinkNeedsIsAskedForByName(t *testing.T) {
	w := newWorld(t, nil)
	good := map[string]any{"email": "a@example.com", "install_id": "phone-1", "code_challenge": challenge(verifier)}
	for name, tc := range map[string]struct {
		field string
		value any
		code  string
	}{
		"no address":                   {"email", "", "missing_fields"},
		"no installation":              {"install_id", nil, "missing_fields"},
		"no challenge":                 {"code_challenge", nil, "missing_fields"},
		"not an address":               {"email", "ann", "invalid_email"},
		"two addresses":                {"email", "a@example.com, b@example.com", "invalid_email"},
		"an address with a line break": {"email", "a@example.com\r\nBcc: b@example.com", "invalid_email"},
		"an installation too long":     {"install_id", strings.Repeat("i", 65), "invalid_request"},
		"a plain challenge":            {"code_challenge", verifier, "invalid_request"},
		"a challenge with stray bits":  {"code_challenge", strings.Repeat("A", 42) + "B", "invalid_request"},
		"a challenge of line breaks":   {"code_challenge", strings.Repeat("A", 42) + "\n", "invalid_request"},
		"a number":                     {"email", 7, "invalid_request"},
		"a body too large":             {"padding", strings.Repeat("x", 16<<10), "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			body := map[string]any{}
			for k, v := range good {
				body[k] = v
			}
			body[tc.field] = tc.value
			got := w.do(t, call{method: "POST", path: "/api/v1/auth/app-magic-link", body: object(t, body)})
			if got.status != http.StatusBadRequest || got.body["error"] != tc.code {
				t.Errorf("got %d %s, want %s", got.status, got.raw, tc.code)
			}
		})
	}
	for _, field := range []string{"token", "install_id", "code_verifier"} {
		if got := w.verify(t, map[string]any{"token": "t", field: ""}); got.status != http.StatusBadRequest || got.body["error"] != "missing_fields" {
			t.Errorf("verify without %s: %d %s", field, got.status, got.raw)
		}
	}
	if len(w.mails) != 0 {
		t.Error("a mail was sent")
	}
}

func TestThePageOfALinkUsesNothingUp(t *testing.T) {
	w := newWorld(t, nil)
	token := w.link(t, "ann@example.com")
	plain := w.do(t, call{method: "GET", path: "/auth/magic"})
	for _, path := range []string{
		"/auth/magic?token=" + token, "/auth/magic?redirect=https://evil.example&next=//evil.example&url=javascript:alert(1)", "/auth/magic",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			got := w.do(t, call{method: method, path: path})
			if got.status != http.StatusOK || got.header.Get("Location") != "" || method == "GET" && got.raw != plain.raw {
				t.Errorf("%s %s: %d %v", method, path, got.status, got.header)
			}
		}
	}
	h := plain.header
	policy := h.Get("Content-Security-Policy")
	if h.Get("Content-Type") != "text/html; charset=utf-8" || h.Get("Referrer-Policy") != "no-referrer" || h.Get("Cache-Control") != "no-store" ||
		!strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("headers %v", h)
	}
	// What runs and what is drawn is what the policy names, and nothing else.
	for element, directive := range map[string]string{"script": "script-src", "style": "style-src"} {
		found := regexp.MustCompile(`(?s)<`+element+`>(.*?)</`+element+`>`).FindAllStringSubmatch(plain.raw, -1)
		if len(found) != 1 {
			t.Fatalf("%d elements %s", len(found), element)
		}
		sum := sha256.Sum256([]byte(found[0][1]))
		if want := directive + " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	if regexp.MustCompile(`\son[a-z]+=|style=|src=`).MatchString(plain.raw) || !strings.Contains(plain.raw, `data-app="devicecloud://auth/magic"`) {
		t.Errorf("the page:\n%s", plain.raw)
	}
	if got := w.verify(t, map[string]any{"token": token}); got.status != http.StatusOK {
		t.Errorf("the link after its page was fetched: %d %s", got.status, got.raw)
	}
}

func TestWithoutAMailerThereAreNoLinks(t *testing.T) {
	w := newWorld(t, nil)
	key, _, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.logs, nil))
	accounts, err := account.New(w.db.Accounts(), w.reg, account.Options{SigningKey: key, Now: w.clock.Now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	w.Handler = httpapi.New(httpapi.Deps{Registry: w.reg, Accounts: accounts}, httpapi.Options{Logger: log, Now: w.clock.Now})
	for path, body := range map[string]string{
		"/api/auth/app-magic-link":        object(t, map[string]any{"email": "a@example.com", "install_id": "i", "code_challenge": challenge(verifier)}),
		"/api/auth/app-magic-link/verify": object(t, map[string]any{"token": "t", "install_id": "i", "code_verifier": verifier}),
	} {
		got := w.do(t, call{method: "POST", path: path, body: body})
		if got.status != http.StatusNotImplemented || got.body["error"] != "feature_disabled" {
			t.Errorf("%s: %d %s", path, got.status, got.raw)
		}
	}
	if strings.Contains(w.logs.String(), "request failed") {
		t.Error("what is switched off is logged as a failure")
	}
}
