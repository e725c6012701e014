package webhook_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/webhook"
)

func TestWhichURLsAreRefused(t *testing.T) {
	open, dev := webhook.Guard{}, webhook.Guard{Loopback: true}
	inside := webhook.Guard{Allowed: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	for _, c := range []struct {
		url   string
		guard webhook.Guard
		ok    bool
	}{
		{"https://example.org/in?x=1", open, true},
		{"https://example.org:8443/", open, true},
		{"https://93.184.216.34/", open, true},
		{"https://[2606:2800:220:1:248:1893:25c8:1946]/", open, true},
		{"http://example.org/", open, false},
		{"http://example.org/", dev, false},
		{"http://127.0.0.1:9/", open, false},
		{"http://127.0.0.1:9/", dev, true},
		{"http://[::1]:9/", dev, true},
		{"http://localhost:9/", dev, true},
		{"http://localhost.example.org/", dev, false},
		{"https://127.0.0.1/", open, false},
		{"https://[::1]/", open, false},
		{"https://10.1.2.3/", open, false},
		{"https://10.1.2.3/", inside, true},
		{"http://10.1.2.3/", inside, false},
		{"https://10.2.2.3/", inside, false},
		{"https://[::ffff:10.0.0.1]/", open, false},
		{"https://[fe80::1%25eth0]/", open, false},
		{"https://169.254.169.254/latest/meta-data/", open, false},
		{"https://user@example.org/", open, false},
		{"https://user:password@example.org/", open, false},
		{"https://example.org/#part", open, false},
		{"https://example.org/#", open, false},
		{"https://example.org:0/", open, false},
		{"https://example.org:65536/", open, false},
		{"https://example.org:port/", open, false},
		{"https:///path", open, false},
		{"https:example.org", open, false},
		{"//example.org/", open, false},
		{"", open, false},
		{"file:///etc/passwd", open, false},
		{"gopher://example.org/", open, false},
		{"https://exa mple.org/", open, false},
		{"https://example.org/a b", open, false},
		{"https://example.org/\r\nX: y", open, false},
		{`https://example.org\@10.0.0.1/`, open, false},
		{"https://example.org/" + strings.Repeat("x", 2048), open, false},
	} {
		if err := c.guard.CheckURL(c.url); (err == nil) != c.ok {
			t.Errorf("%.80q with %+v: %v", c.url, c.guard, err)
		}
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{"https://example.org/", "https://[::1]:1/", "http://127.0.0.1", "https://a@b", "https://0x7f.1/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if (webhook.Guard{}).CheckURL(text) != nil {
			return
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Hostname() == "" {
			t.Fatalf("%q was accepted: %v", text, err)
		}
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && (ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()) {
			t.Fatalf("%q was accepted", text)
		}
	})
}

func TestWhichAddressesAreRefused(t *testing.T) {
	g := webhook.Guard{}
	for _, ip := range []string{
		"8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2a00::1",
	} {
		if !webhook.Allows(g, netip.MustParseAddr(ip)) {
			t.Errorf("%s is refused", ip)
		}
	}
	for _, ip := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1",
		"172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1",
		"239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254",
		"64:ff9b:1::8.8.8.8", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
		"fe80::1%eth0", "2606:4700::1111%eth0", "5f00::1",
	} {
		if webhook.Allows(g, netip.MustParseAddr(ip)) {
			t.Errorf("%s is allowed", ip)
		}
	}
	if webhook.Allows(g, netip.Addr{}) {
		t.Error("no address is allowed")
	}
	own := webhook.Guard{Allowed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for ip, want := range map[string]bool{"10.1.1.1": true, "::ffff:10.1.1.1": true, "fd00::1": true, "192.168.0.1": false, "127.0.0.1": false} {
		if webhook.Allows(own, netip.MustParseAddr(ip)) != want {
			t.Errorf("%s with an allow-list", ip)
		}
	}
}

// names answers each name with its lists in turn, the last one for ever.
type names struct {
	lists [][]string
	asked atomic.Int64
}

func (n *names) LookupNetIP(_ context.Context, _, host string) (list []netip.Addr, err error) {
	if host == "nowhere.example" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	i := min(int(n.asked.Add(1))-1, len(n.lists)-1)
	for _, text := range n.lists[i] {
		list = append(list, netip.MustParseAddr(text))
	}
	return list, nil
}

// receiver is a server on loopback, and a client that trusts its certificate.
func receiver(t *testing.T, g webhook.Guard, serve http.HandlerFunc) (*webhook.Client, string) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see its client go
		serve(w, r)
	}))
	t.Cleanup(s.Close)
	c := webhook.NewClient(g)
	pool := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	webhook.Transport(c).TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return c, s.URL
}

func post(t *testing.T, c *webhook.Client, url string) webhook.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return c.Post(ctx, webhook.Message{URL: url, ID: "msg_1", Timestamp: time.Now(), Body: "{}", Signatures: "v1,x"})
}

func TestTheClientConnectsToWhatItHasChecked(t *testing.T) {
	var hits atomic.Int64
	count := func(w http.ResponseWriter, _ *http.Request) { hits.Add(1); w.WriteHeader(http.StatusNoContent) }
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	t.Run("a name that means a private address", func(t *testing.T) {
		for _, ip := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "0.0.0.0"} {
			c, u := receiver(t, webhook.Guard{Resolver: &names{lists: [][]string{{ip}}}}, count)
			if r := post(t, c, strings.Replace(u, "127.0.0.1", "example.com", 1)); r.Error != "address_refused" {
				t.Errorf("%s: %+v", ip, r)
			}
		}
	})
	t.Run("a name that changes its meaning between the check and the connection", func(t *testing.T) {
		n := &names{lists: [][]string{{"127.0.0.1"}, {"10.0.0.1"}}}
		c, u := receiver(t, webhook.Guard{Resolver: n, Allowed: loopback}, count)
		if r := post(t, c, strings.Replace(u, "127.0.0.1", "example.com", 1)); r.Status != http.StatusNoContent {
			t.Errorf("%+v", r)
		}
		if n.asked.Load() != 1 {
			t.Errorf("the name was asked for %d times: what was checked is not what was called", n.asked.Load())
		}
		webhook.Transport(c).CloseIdleConnections()
		if r := post(t, c, strings.Replace(u, "127.0.0.1", "example.com", 1)); r.Error != "address_refused" {
			t.Errorf("it was not checked again: %+v", r)
		}
	})
	t.Run("a name with a private address beside an allowed one", func(t *testing.T) {
		c, u := receiver(t, webhook.Guard{Resolver: &names{lists: [][]string{{"10.0.0.1", "127.0.0.1"}}}, Allowed: loopback}, count)
		if r := post(t, c, strings.Replace(u, "127.0.0.1", "example.com", 1)); r.Status != http.StatusNoContent {
			t.Errorf("%+v", r)
		}
	})
	t.Run("localhost that means something else", func(t *testing.T) {
		c, u := receiver(t, webhook.Guard{Resolver: &names{lists: [][]string{{"8.8.8.8"}}}, Loopback: true}, count)
		if r := post(t, c, strings.Replace(u, "127.0.0.1", "localhost", 1)); r.Error != "address_refused" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a name that nobody knows", func(t *testing.T) {
		c, _ := receiver(t, webhook.Guard{Resolver: &names{}}, count)
		if r := post(t, c, "https://nowhere.example/"); r.Error != "name_not_resolved" {
			t.Errorf("%+v", r)
		}
	})
	if hits.Load() != 2 {
		t.Errorf("the receiver was called %d times, not twice", hits.Load())
	}
	t.Run("no proxy of the environment", func(t *testing.T) {
		t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
		if webhook.Transport(webhook.NewClient(webhook.Guard{})).Proxy != nil {
			t.Error("there is a proxy")
		}
	})
}

func TestWhatAReceiverAnswers(t *testing.T) {
	g := webhook.Guard{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	var elsewhere atomic.Int64
	_, other := receiver(t, g, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		}
	}
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  webhook.Result
	}{
		"200":                       {status(200), webhook.Result{Status: 200}},
		"204":                       {status(204), webhook.Result{Status: 204}},
		"a redirect":                {status(302, "Location", other), webhook.Result{Status: 302, Error: "redirected"}},
		"a permanent redirect":      {status(308, "Location", other), webhook.Result{Status: 308, Error: "redirected"}},
		"not modified":              {status(304), webhook.Result{Status: 304, Error: "redirected"}},
		"410":                       {status(410), webhook.Result{Status: 410, Error: "refused"}},
		"500":                       {status(500), webhook.Result{Status: 500, Error: "refused"}},
		"429 with seconds":          {status(429, "Retry-After", "7"), webhook.Result{Status: 429, Error: "refused", RetryAfter: 7 * time.Second}},
		"429 with a year":           {status(429, "Retry-After", "31536000"), webhook.Result{Status: 429, Error: "refused", RetryAfter: time.Hour}},
		"429 with an endless wait":  {status(429, "Retry-After", "9223372036854775807"), webhook.Result{Status: 429, Error: "refused", RetryAfter: time.Hour}},
		"429 with a negative wait":  {status(429, "Retry-After", "-5"), webhook.Result{Status: 429, Error: "refused"}},
		"429 with a date long ago":  {status(429, "Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"), webhook.Result{Status: 429, Error: "refused"}},
		"429 with a date far ahead": {status(429, "Retry-After", "Thu, 01 Jan 2099 00:00:00 GMT"), webhook.Result{Status: 429, Error: "refused", RetryAfter: time.Hour}},
		"429 with nonsense":         {status(429, "Retry-After", "soon"), webhook.Result{Status: 429, Error: "refused"}},
		"an endless answer": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}, webhook.Result{Status: 200}},
		"an answer that never ends": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, webhook.Result{Status: 200}},
		"endless headers": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set("X-"+strings.Repeat("a", i+1), strings.Repeat("b", 4<<10))
			}
		}, webhook.Result{Error: "connection_failed"}},
		"no answer":         {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, webhook.Result{Error: "timeout"}},
		"a line that drops": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, webhook.Result{Error: "connection_failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, u := receiver(t, g, c.serve)
			if got := post(t, client, u); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	t.Run("a certificate of nobody", func(t *testing.T) {
		s := httptest.NewTLSServer(status(200))
		defer s.Close()
		if got := post(t, webhook.NewClient(g), s.URL); got.Error != "certificate_not_valid" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("the end of the program", func(t *testing.T) {
		release := make(chan struct{})
		client, u := receiver(t, g, func(http.ResponseWriter, *http.Request) { <-release })
		t.Cleanup(func() { close(release) })
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if got := client.Post(ctx, webhook.Message{URL: u, Timestamp: time.Now()}); got.Error != "interrupted" {
			t.Errorf("%+v", got)
		}
	})
	if elsewhere.Load() != 0 {
		t.Error("a redirect was followed")
	}
}
