package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// canaries are the secrets of a run: planted by the test, or handed out by the
// program on the way. Whatever the program writes is searched for them, in every form
// in which a program writes bytes.
type canaries struct {
	mu     sync.Mutex
	values map[string][]byte // by what it is
	heard  []answer

	patterns map[[headLen]byte][]pattern // of values; nil when one was added
}

// answer is what the program said over HTTP.
type answer struct {
	what  string // the request
	text  string // status, headers and body
	gives []string
}

func newCanaries() *canaries { return &canaries{values: map[string][]byte{}} }

// plant adds a secret. One of 32 bytes or more is also found by either half.
func (s *canaries) plant(name string, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(value) < 12 {
		panic("a canary of fewer than 12 bytes is found by chance: " + name)
	}
	s.values[name], s.patterns = []byte(value), nil
	return value
}

// handedOut are the members of answers that carry secrets: what is in one is a secret
// from then on, and may stand in that answer only.
var handedOut = []string{"access_token", "refresh_token", "client_secret", "api_key", "key", "secret", "token"}

// hear keeps an answer, and learns what secrets it hands out.
func (s *canaries) hear(what string, r reply) reply {
	a := answer{what: what, text: fmt.Sprint(r.status, r.header, r.body)}
	var body map[string]any
	if json.Unmarshal([]byte(r.body), &body) == nil && r.status/100 == 2 {
		for _, member := range handedOut {
			if text, ok := body[member].(string); ok {
				if member == "access_token" { // the rest of it is no secret: public claims
					text = text[strings.LastIndexByte(text, '.')+1:]
				}
				s.mu.Lock()
				name := fmt.Sprintf("%s %d", member, len(s.values))
				s.mu.Unlock()
				s.plant(name, text)
				a.gives = append(a.gives, name)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, a)
	return r
}

// record is [Cloud.exchange] whose answer is kept.
func (s *canaries) record(t *testing.T, c *Cloud, r request) reply {
	t.Helper()
	return s.hear(r.method+" "+r.path, c.exchange(t, r))
}

// forms are all the texts that say that a secret was written, by the name of the form.
func forms(secret []byte) map[string]string {
	var percent, decimal, hexes []string
	for _, b := range secret {
		percent = append(percent, fmt.Sprintf("%%%02X", b))
		decimal = append(decimal, fmt.Sprint(b))
		hexes = append(hexes, fmt.Sprintf("0x%x", b))
	}
	text := string(secret)
	quoted, _ := json.Marshal(text)
	all := map[string]string{
		"text": text, "hex": hex.EncodeToString(secret), "upper hex": strings.ToUpper(hex.EncodeToString(secret)),
		"query": url.QueryEscape(text), "path": url.PathEscape(text), "percent": strings.Join(percent, ""), "lower percent": strings.ToLower(strings.Join(percent, "")),
		"decimal bytes": strings.Join(decimal, " "), "decimal bytes, commas": strings.Join(decimal, ","), "decimal bytes, commas and spaces": strings.Join(decimal, ", "),
		"hex bytes": strings.Join(hexes, ", "), "spaced hex": fmt.Sprintf("% x", secret), "JSON": string(quoted[1 : len(quoted)-1]), "Go": strings.Trim(fmt.Sprintf("%+q", text), `"`),
	}
	// In base64 a byte's characters depend on its place among three; of the first and
	// last of the secret also on its neighbours, so that these are left out.
	for shift := range 3 {
		padded := append(make([]byte, shift), secret...)
		padded = padded[:len(padded)-len(padded)%3]
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			core := enc.EncodeToString(padded)
			if shift > 0 {
				core = core[4:]
			}
			all[fmt.Sprintf("%s at %d", name, shift)] = core
		}
	}
	return all
}

// piece is a secret or half of one.
type piece struct {
	name string
	part []byte
}

// pieces are what of a secret is searched for: all of it, and the halves of a long one.
func pieces(secret []byte) []piece {
	all := []piece{{"", secret}}
	if n := len(secret) / 2; n >= 16 {
		all = append(all, piece{"the first half of ", secret[:n]}, piece{"the second half of ", secret[n:]})
	}
	return all
}

// pattern is a text that says that a secret was written.
type pattern struct {
	text   []byte
	secret string // its name
	label  string // as it is reported
	rank   int    // the least is reported
}

// headLen is how many bytes of a pattern are looked up before the rest is compared.
const headLen = 8

// index is every pattern of every secret, by its first bytes: a text is searched for
// all of them in one pass.
func (s *canaries) index() map[[headLen]byte][]pattern {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.patterns != nil {
		return s.patterns
	}
	s.patterns = map[[headLen]byte][]pattern{}
	for name, value := range s.values {
		rank := 0
		for _, piece := range pieces(value) {
			all := forms(piece.part)
			for _, form := range append([]string{"text"}, slices.Sorted(maps.Keys(all))...) {
				head := [headLen]byte([]byte(all[form][:headLen]))
				s.patterns[head] = append(s.patterns[head], pattern{[]byte(all[form]), name, piece.name + name + " as " + form, rank})
				rank++
			}
		}
	}
	return s.patterns
}

// find lists which secrets are in a text and in which form first, but for those with
// the given names.
func (s *canaries) find(text []byte, except ...string) (found []string) {
	patterns := s.index()
	best := map[string]pattern{}
	for i := 0; i+headLen <= len(text); i++ {
		for _, p := range patterns[[headLen]byte(text[i:i+headLen])] {
			if b, have := best[p.secret]; bytes.HasPrefix(text[i:], p.text) && (!have || p.rank < b.rank) {
				best[p.secret] = p
			}
		}
	}
	for name, p := range best {
		if !slices.Contains(except, name) {
			found = append(found, p.label)
		}
	}
	slices.Sort(found)
	return found
}

// sweep searches everything that the program has written.
func (s *canaries) sweep(t *testing.T, c *Cloud) (found []string) {
	t.Helper()
	report := func(where string, list []string) {
		for _, f := range list {
			found = append(found, where+": "+f)
		}
	}
	report("log", s.find([]byte(c.Log())))
	report("metrics", s.find([]byte(c.metrics(t))))
	for name, text := range c.databaseFiles(t) {
		report(name, s.find(text))
	}
	s.mu.Lock()
	heard := slices.Clone(s.heard)
	s.mu.Unlock()
	// Answers that may hold the same are searched as one text, and singly only where
	// there is something: most may hold nothing.
	var silent strings.Builder
	for _, a := range heard {
		if len(a.gives) == 0 {
			silent.WriteString(a.text + "\n")
		}
	}
	quiet := len(s.find([]byte(silent.String()))) == 0
	for _, a := range heard {
		if len(a.gives) > 0 || !quiet {
			report("the answer to "+a.what, s.find([]byte(a.text), a.gives...))
		}
	}
	return found
}

// metrics is the whole of /metrics.
func (c *Cloud) metrics(t *testing.T) string {
	t.Helper()
	res, err := c.client.Get("http://" + c.address.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// databaseFiles are all bytes of the SQLite database and its companions.
func (c *Cloud) databaseFiles(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.DataDir(), "devicecloud.db*"))
	if err != nil || len(files) == 0 && c.env["DATABASE_URL"] == "" {
		t.Fatalf("no database: %v", err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = text
	}
	return all
}

// A search that finds nothing proves nothing unless it finds what is there.
func TestTheSweepFindsASecretInEveryForm(t *testing.T) {
	t.Parallel()
	secret := "Kanari+/" + "\x00\xfe<&\"é" + "-0123456789abcdefghij"
	s := newCanaries()
	s.plant("it", secret)
	decimal := strings.Trim(fmt.Sprint([]byte(secret)), "[]")
	list, _ := json.Marshal(append(make([]int, 0), intsOf(secret)...))
	said := map[string]string{
		"text": secret, "hex": hex.EncodeToString([]byte(secret)), "upper hex": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"query": url.QueryEscape(secret), "path": url.PathEscape(secret), "%v of bytes": fmt.Sprintf("%v", []byte(secret)), "%d": decimal, "JSON list": string(list),
		"%x": fmt.Sprintf("%x", secret), "% X": fmt.Sprintf("% x", secret), "%q": fmt.Sprintf("%q", secret), "%+q": fmt.Sprintf("%+q", secret), "%#v of bytes": fmt.Sprintf("%#v", []byte(secret)),
		"JSON": string(must2(json.Marshal(secret))),
	}
	for name, enc := range map[string]*base64.Encoding{"std": base64.StdEncoding, "raw std": base64.RawStdEncoding, "url": base64.URLEncoding, "raw url": base64.RawURLEncoding} {
		for before := range 4 {
			for after := range 4 {
				said[fmt.Sprintf("base64 %s with %d bytes before and %d after", name, before, after)] = enc.EncodeToString([]byte("xyz?"[:before] + secret + "~!/z"[:after]))
			}
		}
	}
	for name, text := range said {
		if found := s.find([]byte("some text " + text + " more text")); len(found) == 0 {
			t.Errorf("it does not find %s: %s", name, text)
		}
	}
	if found := s.find([]byte("some text " + secret[:len(secret)/2] + " more text")); len(found) == 0 {
		t.Error("it does not find half a secret")
	}
	if found := s.find(bytes.Repeat([]byte("Kanari and 0123456789 and nothing else. "), 1000)); len(found) > 0 {
		t.Errorf("it finds %v where there is nothing", found)
	}
	if found := s.find([]byte(secret), "it"); len(found) > 0 {
		t.Errorf("it finds %v in the answer that hands it out", found)
	}
}

func intsOf(s string) (list []int) {
	for _, b := range []byte(s) {
		list = append(list, int(b))
	}
	return list
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
