package e2e_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// asked is the body that asks for a mailed link.
func asked(email string) string {
	return string(must2(json.Marshal(object{"email": email, "install_id": "install-1", "code_challenge": challengeOf(verifier)})))
}

// shown is the body that shows one.
func shown(token string) string {
	return string(must2(json.Marshal(object{"token": token, "install_id": "install-1", "code_verifier": verifier})))
}

const (
	askForLink = "/api/auth/app-magic-link"
	showLink   = "/api/auth/app-magic-link/verify"
)

// TestMailedLinksOverTheWire attacks the links that sign people in. [contracts C.2]
func TestMailedLinksOverTheWire(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "info", "PUBLIC_URL": "http://127.0.0.1:8080"}})
	t.Run("fetching it beforehand uses nothing up", func(t *testing.T) {
		token := c.mailedLink(t, "prefetched@example.com")
		page := c.exchange(t, request{method: http.MethodGet, path: "/auth/magic"})
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, path := range []string{"/auth/magic?token=" + token, "/auth/magic?token=" + token + "&install_id=install-1&code_verifier=" + verifier} {
				for range 3 {
					if got := c.exchange(t, request{method: method, path: path}); got.status != http.StatusOK || method == http.MethodGet && got.body != page.body {
						t.Errorf("%s %s: %d", method, path, got.status)
					}
				}
			}
			if got := c.exchange(t, request{method: method, path: showLink + "?token=" + token}); got.status != http.StatusMethodNotAllowed {
				t.Errorf("%s on the route that signs in: %d", method, got.status)
			}
		}
		if got := c.exchange(t, request{method: http.MethodPost, path: showLink, body: shown(token)}); got.status != http.StatusOK {
			t.Errorf("after that it gets %d %s", got.status, got.body)
		}
	})
	t.Run("nobody is sent anywhere else", func(t *testing.T) {
		page := c.exchange(t, request{method: http.MethodGet, path: "/auth/magic"})
		for _, parameter := range []string{"redirect", "redirect_uri", "next", "url", "return_to", "continue", "app", "link", "to"} {
			for _, to := range []string{"https://evil.example", "//evil.example", "javascript:alert(1)", "%0d%0aLocation:https://evil.example"} {
				got := c.exchange(t, request{method: http.MethodGet, path: "/auth/magic?" + parameter + "=" + to})
				if diff := sameButForTheRequest(page, got); diff != "" || got.header.Get("Location") != "" {
					t.Errorf("%s=%s changes the page:\n%s", parameter, to, diff)
				}
			}
		}
	})
	t.Run("a mail's link is ours, whatever the request says of its host", func(t *testing.T) {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, c.API()+askForLink, strings.NewReader(asked("poisoned@example.com")))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example"
		for name, value := range map[string]string{
			"Content-Type": "application/json", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Original-URL": "https://evil.example/",
			"Forwarded": "host=evil.example", "Referer": "https://evil.example/", "Origin": "https://evil.example",
		} {
			req.Header.Set(name, value)
		}
		res, err := c.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusAccepted {
			t.Fatalf("answered %d", res.StatusCode)
		}
		c.inOutbox(t, "poisoned@example.com")
		for _, mail := range c.outbox(t) {
			if strings.Contains(mail, "evil.example") || !strings.Contains(mail, "http://127.0.0.1:8080/auth/magic#token=") {
				t.Errorf("a mail says\n%s", mail)
			}
		}
	})
}

// outbox is every mail that was written down, without the escapes of mail.
func (c *Cloud) outbox(t *testing.T) (mails []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.DataDir(), "outbox", "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		mails = append(mails, plain(string(text)))
	}
	return mails
}

func TestMailedLinksAreLimitedByAddressee(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Env: map[string]string{"LOG_LEVEL": "info", "LIMIT_MAGIC_LINKS_PER_EMAIL": "5/h:5"}})
	c.UserToken("known@example.com")
	for _, email := range []string{"known@example.com", "unknown@example.com"} {
		forms := []string{email, strings.ToUpper(email), " " + email + " "}
		for i := range 8 {
			got := c.exchange(t, request{method: http.MethodPost, path: askForLink, body: asked(forms[i%len(forms)])})
			switch {
			case i < 5 && got.status != http.StatusAccepted:
				t.Errorf("%s, the %dth time: %d %s", email, i+1, got.status, got.body)
			case i >= 5 && (got.status != http.StatusTooManyRequests || got.header.Get("Retry-After") == "" || !strings.Contains(got.body, "RATE_LIMITED")):
				t.Errorf("%s, the %dth time: %d %v %s", email, i+1, got.status, got.header, got.body)
			}
		}
	}
}
