package e2e_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// postOffice is a real SMTP server inside the test: a channel of mails.
type postOffice chan []byte

func (o postOffice) NewSession(*smtp.Conn) (smtp.Session, error) { return counter{o}, nil }

type counter struct{ postOffice }

func (counter) Reset()                               {}
func (counter) Logout() error                        { return nil }
func (counter) Mail(string, *smtp.MailOptions) error { return nil }
func (counter) Rcpt(string, *smtp.RcptOptions) error { return nil }

func (c counter) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err == nil {
		c.postOffice <- text
	}
	return err
}

// openPostOffice listens on an address; "" is any.
func openPostOffice(t *testing.T, address string) (office postOffice, listening string) {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	office = make(postOffice, 1000)
	server := smtp.NewServer(office)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // until the listener closes
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		_ = server.Close()
		<-ended
	})
	return office, listener.Addr().String()
}

// take waits for the next mail.
func (o postOffice) take(t *testing.T) []byte {
	t.Helper()
	select {
	case text := <-o:
		return text
	case <-time.After(stretch * 10 * time.Second):
		t.Fatal("no mail arrives")
	}
	return nil
}

// phone is an app that asks for links.
type phone struct{ install, verifier string }

func newPhone() phone { return phone{rand.Text(), rand.Text() + rand.Text()} }

// asks is the body that asks for a link.
func (p phone) asks(email string) map[string]string {
	sum := sha256.Sum256([]byte(p.verifier))
	return map[string]string{"email": email, "install_id": p.install, "code_challenge": base64.RawURLEncoding.EncodeToString(sum[:])}
}

// shows is the body that signs in by a link.
func (p phone) shows(token string) map[string]string {
	return map[string]string{"token": token, "install_id": p.install, "code_verifier": p.verifier}
}

const publicURL = "https://cloud.example.com"

var mailedLink = regexp.MustCompile(`(?m)^(https?://[^\s#]+/auth/magic)#token=([A-Za-z0-9_-]{43})\r?$`)

// readLink reads a mail as a mail program does, and gives the token of its link.
func readLink(t *testing.T, text []byte, to, page string) (token string) {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("the mail cannot be read: %v\n%s", err, text)
	}
	body, err := io.ReadAll(msg.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := mailedLink.FindSubmatch(body)
	if found == nil || string(found[1]) != page || !strings.Contains(msg.Header.Get("To"), to) {
		t.Fatalf("the mail:\n%s", text)
	}
	return string(found[2])
}

// requestLink asks for a link; the answer is always the same.
func (c *Cloud) requestLink(p phone, email string) {
	c.t.Helper()
	var answer struct {
		Sent    bool `json:"sent"`
		Expires int  `json:"expires_in"`
	}
	if status := c.Do(http.MethodPost, "/api/auth/app-magic-link", "", p.asks(email), &answer); status != http.StatusAccepted || !answer.Sent || answer.Expires != 600 {
		c.t.Fatalf("asking for a link: %d %+v", status, answer)
	}
}

func (c *Cloud) show(body map[string]string) (int, identity) {
	c.t.Helper()
	var in identity
	status := c.Do(http.MethodPost, "/api/auth/app-magic-link/verify", "", body, &in)
	return status, in
}

func TestMailedLinks(t *testing.T) {
	t.Parallel()
	office, address := openPostOffice(t, "")
	c := Start(t, Options{Env: map[string]string{"SMTP_URL": "smtp://" + address, "MAIL_FROM": "Devices <no-reply@example.com>", "PUBLIC_URL": publicURL + "/"}})
	next := func(t *testing.T, p phone, email string) string {
		t.Helper()
		c.For(t).requestLink(p, email)
		return readLink(t, office.take(t), strings.ToLower(email), publicURL+"/auth/magic")
	}
	t.Run("sign in who asked, once, and survive a restart", func(t *testing.T) {
		p := newPhone()
		token := next(t, p, "Ann@Example.com")
		c.Restart()
		c := c.For(t)
		// What a mail scanner does, and a browser, with the fragment as a query at worst.
		for _, path := range []string{"/auth/magic", "/auth/magic?token=" + token, "/auth/magic?redirect=https://evil.example"} {
			for _, method := range []string{http.MethodHead, http.MethodGet} {
				if status, text, err := c.request(method, path, "", nil); err != nil || status != http.StatusOK || strings.Contains(string(text), "evil") {
					t.Errorf("%s %s: %d, %v", method, path, status, err)
				}
			}
		}
		another := newPhone()
		for name, body := range map[string]map[string]string{
			"on another device":        another.shows(token),
			"with another verifier":    {"token": token, "install_id": p.install, "code_verifier": another.verifier},
			"on a device by its name":  {"token": token, "install_id": another.install, "code_verifier": p.verifier},
			"with a letter changed":    p.shows(token[:42] + string(token[42]^1)),
			"with a letter to its end": p.shows(token + "A"),
		} {
			if status, in := c.show(body); status != http.StatusUnauthorized || in.Error != "invalid_token" {
				t.Errorf("%s: %d %+v", name, status, in)
			}
		}
		status, in := c.show(p.shows(token))
		if status != http.StatusOK || in.User.Email != "ann@example.com" || !in.User.Verified {
			t.Fatalf("got %d %+v", status, in)
		}
		c.Get("/api/me", in.Token, nil)
		if status, in := c.show(p.shows(token)); status != http.StatusUnauthorized {
			t.Errorf("the second time: %d %+v", status, in)
		}
		if log := c.Log(); strings.Contains(log, token) || strings.Contains(log, p.verifier) {
			t.Error("a token is in the log") // but for the query above, which is not logged either
		}
	})
	t.Run("are one for 100 who show it at once", func(t *testing.T) {
		p := newPhone()
		if won := c.For(t).once("/api/auth/app-magic-link/verify", p.shows(next(t, p, "race@example.com"))); won != 1 {
			t.Errorf("%d won", won)
		}
	})
	t.Run("replace older ones", func(t *testing.T) {
		c, p := c.For(t), newPhone()
		older, newer := next(t, p, "bob@example.com"), next(t, p, "bob@example.com")
		if status, in := c.show(p.shows(older)); status != http.StatusUnauthorized {
			t.Errorf("the older: %d %+v", status, in)
		}
		if status, in := c.show(p.shows(newer)); status != http.StatusOK {
			t.Errorf("the newer: %d %+v", status, in)
		}
	})
	t.Run("are the same person's as another way in with this address", func(t *testing.T) {
		c, p := c.For(t), newPhone()
		eve := c.UserToken("eve@example.com")
		if status, in := c.show(p.shows(next(t, p, "eve@example.com"))); status != http.StatusOK || in.User.ID != eve.ID {
			t.Errorf("got %d %+v, want %s", status, in, eve.ID)
		}
	})
}

// TestThePageOfALinkOpensTheApp runs the page's script as a browser does, with the
// few objects of one that it touches.
func TestThePageOfALinkOpensTheApp(t *testing.T) {
	t.Parallel()
	skipWithout(t, "node", haveProgram("node"))
	c := Start(t, Options{Env: map[string]string{"APP_LINK_URL": `acme.app://auth/magic?a="b"&c=<d>`}})
	status, page, err := c.request(http.MethodGet, "/auth/magic", "", nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v", status, err)
	}
	token := strings.Repeat("Aa0_-", 8) + "AAA"
	for name, tc := range map[string]struct{ fragment, opens string }{
		"with a token":                   {"#token=" + token, `acme.app://auth/magic?a="b"&c=<d>#token=` + token},
		"without one":                    {"", ""},
		"with one cut short":             {"#token=" + token[1:], ""},
		"with something behind it":       {"#token=" + token + "&redirect=https://evil.example", ""},
		"with a script in its place":     {"#token=javascript:alert(1)//AAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ""},
		"with another word in the front": {"#redirect=https://evil.example&token=" + token, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("node", "testdata/magic_page.js", tc.fragment)
			cmd.Stdin = bytes.NewReader(page)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got := strings.TrimSpace(string(out)); got != tc.opens {
				t.Errorf("it opens %q, want %q", got, tc.opens)
			}
		})
	}
}

func TestAMailWaitsForItsServer(t *testing.T) {
	t.Parallel()
	// An address at which nobody listens yet.
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := reserved.Addr().String()
	if err := reserved.Close(); err != nil {
		t.Fatal(err)
	}
	c := Start(t, Options{Env: map[string]string{"SMTP_URL": "smtp://" + address, "MAIL_FROM": "no-reply@example.com", "PUBLIC_URL": publicURL}})
	p := newPhone()
	began := time.Now()
	c.requestLink(p, "ann@example.com")
	if took := time.Since(began); took > stretch*time.Second {
		t.Errorf("the answer took %v", took)
	}
	Await(t, stretch*5*time.Second, func() bool { return strings.Contains(c.Log(), "it is tried again") }, func() string { return "the log says nothing of a mail that could not be sent" })
	office, _ := openPostOffice(t, address)
	if status, in := c.show(p.shows(readLink(t, office.take(t), "ann@example.com", publicURL+"/auth/magic"))); status != http.StatusOK {
		t.Errorf("got %d %+v", status, in)
	}
	if strings.Contains(c.Log(), "ann@example.com") {
		t.Error("the log holds the address")
	}
}

func TestAMailOverAServerThatOthersWrote(t *testing.T) {
	t.Parallel()
	// Debian's interpreter: aiosmtpd is a package of it.
	const python = "/usr/bin/python3"
	skipWithout(t, "python3-aiosmtpd", exec.Command(python, "-c", "import aiosmtpd").Run() == nil)
	server := startHelper(t, python, "testdata/smtp_server.py")
	c := Start(t, Options{Env: map[string]string{
		"SMTP_URL": "smtp://127.0.0.1:" + server.line(), "MAIL_FROM": "Devices <no-reply@example.com>", "PUBLIC_URL": publicURL,
	}})
	p := newPhone()
	c.requestLink(p, "ann@example.com")
	var got struct {
		From string   `json:"from"`
		To   []string `json:"to"`
		Text string   `json:"text"`
	}
	if err := json.Unmarshal([]byte(server.line()), &got); err != nil {
		t.Fatal(err)
	}
	if got.From != "no-reply@example.com" || fmt.Sprint(got.To) != "[ann@example.com]" {
		t.Errorf("from %s to %v", got.From, got.To)
	}
	if status, in := c.show(p.shows(readLink(t, []byte(got.Text), "ann@example.com", publicURL+"/auth/magic"))); status != http.StatusOK {
		t.Errorf("got %d %+v", status, in)
	}
}

func TestInDevModeMailsAreFiles(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Process: true})
	p := newPhone()
	c.requestLink(p, "ann@example.com")
	pattern := filepath.Join(c.DataDir(), "outbox", "*.eml")
	var files []string
	Await(t, stretch*5*time.Second, func() bool {
		files, _ = filepath.Glob(pattern)
		return len(files) > 0
	}, func() string { return "no file " + pattern })
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if status, in := c.show(p.shows(readLink(t, text, "ann@example.com", "http://127.0.0.1:0/auth/magic"))); status != http.StatusOK {
		t.Errorf("got %d %+v", status, in)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
}

func TestOutsideDevModeThereAreNoLinksWithoutAMailServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := Start(t, Options{Production: true, TLS: s.client(), Env: s.settings(t)})
	var answer identity
	if status := c.Do(http.MethodPost, "/api/auth/app-magic-link", "", newPhone().asks("ann@example.com"), &answer); status != http.StatusNotImplemented || answer.Error != "feature_disabled" {
		t.Errorf("got %d %+v", status, answer)
	}
}

// TestNobodyLearnsWhoseAddressItIs measures from outside: the answer to an address
// that is somebody's and to one that is nobody's, and what links are told that are
// not good. The order changes in each round, so that the machine's load is shared.
func TestNobodyLearnsWhoseAddressItIs(t *testing.T) {
	rounds := scale(200, 1000)
	c := Start(t, Options{Process: true, Shipped: true, Env: map[string]string{"LOG_LEVEL": "info"}})
	known := newPhone()
	c.requestLink(known, "known@example.com")
	var files []string
	Await(t, stretch*5*time.Second, func() bool {
		files, _ = filepath.Glob(filepath.Join(c.DataDir(), "outbox", "*.eml"))
		return len(files) > 0
	}, func() string { return "no mail" })
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	used := readLink(t, text, "known@example.com", "http://127.0.0.1:0/auth/magic")
	if status, _ := c.show(known.shows(used)); status != http.StatusOK {
		t.Fatalf("the known person cannot sign in: %d", status)
	}
	type kind struct {
		name, path string
		body       func() map[string]string
	}
	for what, kinds := range map[string][]kind{
		"asking": {
			{"a person's address", "/api/auth/app-magic-link", func() map[string]string { return known.asks("known@example.com") }},
			{"nobody's address", "/api/auth/app-magic-link", func() map[string]string { return known.asks("nobody@example.com") }},
		},
		"showing": {
			{"a used link", "/api/auth/app-magic-link/verify", func() map[string]string { return known.shows(used) }},
			{"an unknown link", "/api/auth/app-magic-link/verify", func() map[string]string { return known.shows(strings.Repeat("A", 43)) }},
			{"a link of another device", "/api/auth/app-magic-link/verify", func() map[string]string { return newPhone().shows(used) }},
		},
	} {
		times := make([]durations, len(kinds))
		requestID := regexp.MustCompile(`"request_id":"[^"]*"`)
		var first string
		for round := range rounds {
			for i := range kinds {
				k := (i + round) % len(kinds)
				body := kinds[k].body()
				began := time.Now()
				status, text, err := c.request(http.MethodPost, kinds[k].path, "", body)
				times[k] = append(times[k], time.Since(began))
				if err != nil {
					t.Fatal(err)
				}
				answer := fmt.Sprint(status, requestID.ReplaceAllString(string(text), ""))
				if first == "" {
					first = answer
				}
				if answer != first {
					t.Fatalf("%s answers %s, another %s", kinds[k].name, answer, first)
				}
			}
		}
		for i, k := range kinds {
			t.Logf("%s, %s: median %v of %d", what, k.name, times[i].percentile(.5), rounds)
			for j := range i {
				if d := (times[i].percentile(.5) - times[j].percentile(.5)).Abs(); d > time.Millisecond {
					t.Errorf("the medians of %s and %s differ by %v, want less than 1 ms", k.name, kinds[j].name, d)
				}
			}
		}
	}
}
