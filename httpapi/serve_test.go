package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/opticworks/devicecloud"
	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/registry"
)

func TestHeaders(t *testing.T) {
	w := newWorld(t, func(_ *httpapi.Deps, o *httpapi.Options) {
		o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	t.Run("every answer forbids what an API does not need", func(t *testing.T) {
		for _, path := range []string{"/livez", "/nowhere", "/api/me", "/openapi.yaml"} {
			h := w.do(t, call{method: "GET", path: path}).header
			if h.Get("Content-Security-Policy") != "default-src 'none'; frame-ancestors 'none'" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%s: %v", path, h)
			}
			if h.Get("Strict-Transport-Security") != "" {
				t.Error("plain HTTP promises TLS")
			}
		}
	})
	t.Run("nothing personal is cached, and documents are", func(t *testing.T) {
		w.login(t, "a", "a@example.com")
		for path, want := range map[string]string{"/api/me": "no-store", "/.well-known/jwks.json": "public, max-age=300", "/openapi.yaml": "public, max-age=300"} {
			if got := w.do(t, call{method: "GET", path: path, as: "a"}).header.Get("Cache-Control"); got != want {
				t.Errorf("%s: %q", path, got)
			}
		}
	})
	t.Run("behind TLS, browsers are told to stay there", func(t *testing.T) {
		for remote, want := range map[string]bool{"10.1.2.3:1": true, "198.51.100.1:1": false} {
			got := w.do(t, call{method: "GET", path: "/livez", remote: remote, header: map[string]string{"X-Forwarded-Proto": "https"}})
			if (got.header.Get("Strict-Transport-Security") != "") != want {
				t.Errorf("from %s: %v", remote, got.header)
			}
		}
	})
	t.Run("a sane request id is taken over, another one is not", func(t *testing.T) {
		for id, want := range map[string]bool{"abc-1.2_X": true, "": false, "a b": false, "a\"b": false, strings.Repeat("x", 65): false, "\xff": false} {
			got := w.do(t, call{method: "GET", path: "/api/me", header: map[string]string{"X-Request-Id": id}})
			if (got.header.Get("X-Request-Id") == id) != want || got.header.Get("X-Request-Id") == "" || got.body["request_id"] != got.header.Get("X-Request-Id") {
				t.Errorf("%q becomes %q", id, got.header.Get("X-Request-Id"))
			}
		}
	})
}

func TestUnknownRoutes(t *testing.T) {
	w := newWorld(t, nil)
	for _, path := range []string{"/", "/api", "/api/", "/api/devices/", "//api/devices", "/api//devices", "/api/../admin/stats", "/API/devices", "/admin", "/api/v2/devices", "/metrics", "/debug/pprof/"} {
		t.Run(path, func(t *testing.T) {
			w.do(t, call{method: "GET", path: path}).want(t, 404, "not_found")
		})
	}
	for _, c := range []struct{ method, path, allow string }{
		{"POST", "/api/devices", "GET, HEAD"},
		{"PUT", "/api/devices/x", "GET, HEAD, PATCH, DELETE"},
		{"GET", "/admin/enroll", "POST"},
		{"OPTIONS", "/api/v1/me", "GET, HEAD, DELETE"},
		{"BREW", "/livez", "GET, HEAD"},
		{"TRACE", "/api/auth/app-token", "POST, DELETE"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			got := w.do(t, call{method: c.method, path: c.path}).want(t, 405, "method_not_allowed")
			if got.header.Get("Allow") != c.allow {
				t.Errorf("Allow is %q", got.header.Get("Allow"))
			}
		})
	}
	t.Run("a method that nobody knows is no label of a metric", func(t *testing.T) {
		if text := w.scrape(t); strings.Contains(text, "BREW") {
			t.Error(text)
		}
	})
}

func (w *world) scrape(t testing.TB) string {
	t.Helper()
	rec := httptest.NewRecorder()
	httpapi.Metrics(w.metrics).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}

func TestAuthorizationHeader(t *testing.T) {
	w := newWorld(t, nil)
	w.login(t, "a", "a@example.com")
	good := w.tokens["a"]
	for header, status := range map[string]int{
		"Bearer " + good: 200, "bearer " + good: 200, "Bearer  " + good: 200,
		"": 401, good: 401, "Bearer": 401, "Bearer ": 401, "Basic " + good: 401, "Bearer " + good + "x": 401, "Bearer " + good + " " + good: 401, "Bearer\t" + good: 401,
	} {
		t.Run(fmt.Sprintf("%.12q", header), func(t *testing.T) {
			got := w.do(t, call{method: "GET", path: "/api/me", header: map[string]string{"Authorization": header}})
			if got.status != status {
				t.Errorf("got %d", got.status)
			}
			checkRefusal(t, got)
		})
	}
	t.Run("a token in the query is not looked at", func(t *testing.T) {
		w.do(t, call{method: "GET", path: "/api/me?access_token=" + good}).want(t, 401, "invalid_token")
	})
	t.Run("two headers are none", func(t *testing.T) {
		r := httptest.NewRequest("GET", "/api/me", nil)
		r.Header["Authorization"] = []string{"Bearer " + good, "Bearer " + good}
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		if rec.Code != 401 {
			t.Errorf("got %d", rec.Code)
		}
	})
	t.Run("a token that has run out is refused", func(t *testing.T) {
		w.clock.Add(13 * time.Hour)
		w.do(t, call{method: "GET", path: "/api/me", as: "a"}).want(t, 401, "invalid_token")
	})
}

func TestLogins(t *testing.T) {
	w := newWorld(t, nil)
	w.staff(t)
	t.Run("a login answers what the contract says", func(t *testing.T) {
		got := w.do(t, call{method: "POST", path: "/api/v1/auth/app-token", body: `{"provider":"dev","id_token":"A@example.com","device":{"platform":"miniapp"}}`}).want(t, 200, "")
		if got.at("token_type") != "Bearer" || got.at("expires_in") != 900.0 || got.at("user", "email") != "a@example.com" || got.at("user", "email_verified") != true {
			t.Errorf("got %s", got.raw)
		}
		if got.header.Get("Cache-Control") != "no-store" {
			t.Error("a token may be cached")
		}
	})
	t.Run("refusals of people in their order", func(t *testing.T) {
		for body, want := range map[string]string{
			`{}`: "missing_fields", `{"provider":"x"}`: "missing_fields", `{"provider":"","id_token":"x"}`: "missing_fields", `{"provider":null,"id_token":null}`: "missing_fields",
			`{"provider":"x","id_token":"y"}`: "invalid_provider", `{"provider":"google","code":"y"}`: "invalid_provider", `{"provider":5}`: "invalid_request", `{`: "invalid_request",
		} {
			w.do(t, call{method: "POST", path: "/api/auth/app-token", body: body}).want(t, 400, want)
		}
		w.do(t, call{method: "POST", path: "/api/auth/app-token", body: `{"provider":"dev","id_token":"y"}`}).want(t, 401, "invalid_token")
	})
	t.Run("an unknown administrator and a wrong password are alike", func(t *testing.T) {
		var raw []string
		for _, email := range []string{adminEmail, "nobody@example.com"} {
			got := w.do(t, call{method: "POST", path: "/admin/auth/login", body: `{"email":"` + email + `","password":"wrong"}`, header: map[string]string{"X-Request-Id": "same"}}).want(t, 401, "invalid_credentials")
			raw = append(raw, got.raw+fmt.Sprint(got.header))
		}
		if raw[0] != raw[1] {
			t.Errorf("%s and %s", raw[0], raw[1])
		}
	})
	t.Run("who guesses has to wait", func(t *testing.T) {
		c := call{method: "POST", path: "/admin/auth/login", body: `{"email":"help@example.com","password":"wrong"}`, remote: "203.0.113.50:1"}
		for range 5 {
			w.do(t, c).want(t, 401, "invalid_credentials")
		}
		got := w.do(t, c).want(t, 429, "RATE_LIMITED")
		if got.header.Get("Retry-After") != "900" {
			t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
		}
	})
	t.Run("the token tells who it is", func(t *testing.T) {
		got := w.do(t, call{method: "GET", path: "/api/me", as: "support"}).want(t, 200, "")
		if got.at("kind") != "support" || got.at("email") != "help@example.com" || fmt.Sprint(got.at("scopes")) != "[device:read]" {
			t.Errorf("got %s", got.raw)
		}
	})
	t.Run("staff have no devices of their own", func(t *testing.T) {
		if got := w.do(t, call{method: "GET", path: "/api/devices", as: "admin"}).want(t, 200, ""); got.len("devices") != 0 {
			t.Errorf("got %s", got.raw)
		}
	})
}

func TestRateLimit(t *testing.T) {
	w := newWorld(t, func(_ *httpapi.Deps, o *httpapi.Options) {
		o.Limits.RequestsPerAddress = httpapi.Rate{PerSecond: 1, Burst: 3}
		o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	exhaust := func(t *testing.T, c call) {
		t.Helper()
		for range 3 {
			w.do(t, c).want(t, 200, "")
		}
		got := w.do(t, c).want(t, 429, "RATE_LIMITED")
		checkRefusal(t, got)
	}
	livez := func(remote, forwarded string) call {
		c := call{method: "GET", path: "/livez", remote: remote}
		if forwarded != "" {
			c.header = map[string]string{"X-Forwarded-For": forwarded}
		}
		return c
	}
	t.Run("one address is slowed down, others are not, and it recovers", func(t *testing.T) {
		exhaust(t, livez("203.0.113.1:1", ""))
		w.do(t, livez("203.0.113.2:1", "")).want(t, 200, "")
		w.clock.Add(time.Second)
		w.do(t, livez("203.0.113.1:9", "")).want(t, 200, "")
		w.do(t, livez("203.0.113.1:9", "")).want(t, 429, "RATE_LIMITED")
	})
	t.Run("an IPv6 customer is one address", func(t *testing.T) {
		exhaust(t, livez("[2001:db8::1]:1", ""))
		w.do(t, livez("[2001:db8::2]:1", "")).want(t, 429, "RATE_LIMITED")
		w.do(t, livez("[2001:db8:0:1::2]:1", "")).want(t, 200, "")
	})
	t.Run("a stranger's X-Forwarded-For does not count", func(t *testing.T) {
		for i := range 3 {
			w.do(t, livez("203.0.113.3:1", fmt.Sprintf("192.0.2.%d", i))).want(t, 200, "")
		}
		w.do(t, livez("203.0.113.3:1", "192.0.2.99")).want(t, 429, "RATE_LIMITED")
	})
	t.Run("a trusted proxy's does, and what the client put before it does not", func(t *testing.T) {
		exhaust(t, livez("10.0.0.1:1", "192.0.2.1, 198.51.100.7, 10.0.0.2"))
		w.do(t, livez("10.0.0.1:1", "192.0.2.200, 198.51.100.7")).want(t, 429, "RATE_LIMITED")
		w.do(t, livez("10.0.0.1:1", "198.51.100.8")).want(t, 200, "")
	})
	t.Run("loopback is exempt", func(t *testing.T) {
		for range 10 {
			w.do(t, livez("127.0.0.1:1", "")).want(t, 200, "")
		}
	})
	t.Run("a storm of addresses is bounded in memory and still limits", func(t *testing.T) {
		for i := range 50000 {
			r := httptest.NewRequest("GET", "/nowhere", nil)
			r.RemoteAddr = fmt.Sprintf("100.%d.%d.%d:1", i>>16, i>>8&255, i&255)
			w.ServeHTTP(httptest.NewRecorder(), r)
		}
		exhaust(t, livez("203.0.113.77:1", ""))
	})
}

func TestLoginRate(t *testing.T) {
	w := newWorld(t, func(_ *httpapi.Deps, o *httpapi.Options) {
		o.Limits.LoginsPerAddress = httpapi.Rate{PerSecond: 0.1, Burst: 2}
	})
	c := call{method: "POST", path: "/api/auth/app-token", body: `{"provider":"dev","id_token":"a@example.com"}`}
	w.do(t, c).want(t, 200, "")
	w.do(t, c).want(t, 200, "")
	if got := w.do(t, c).want(t, 429, "RATE_LIMITED"); got.header.Get("Retry-After") != "10" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	w.do(t, call{method: "GET", path: "/livez"}).want(t, 200, "")
}

func TestProbes(t *testing.T) {
	var state error
	w := newWorld(t, func(d *httpapi.Deps, _ *httpapi.Options) { d.Ready = func() error { return state } })
	t.Run("ready when everything is", func(t *testing.T) {
		w.do(t, call{method: "GET", path: "/readyz"}).want(t, 200, "")
	})
	t.Run("not ready while draining, and the cause stays in the log", func(t *testing.T) {
		state = errors.New("draining because of reasons")
		got := w.do(t, call{method: "GET", path: "/readyz"}).want(t, 503, "not_ready")
		checkRefusal(t, got)
		if strings.Contains(got.raw, "reasons") || !strings.Contains(w.logs.String(), "reasons") {
			t.Errorf("got %s", got.raw)
		}
		w.do(t, call{method: "GET", path: "/livez"}).want(t, 200, "")
		state = nil
	})
	t.Run("not ready when the registry cannot write, and alive all the same", func(t *testing.T) {
		w := newWorld(t, nil)
		w.reg.Close()
		w.do(t, call{method: "GET", path: "/readyz"}).want(t, 503, "not_ready")
		w.do(t, call{method: "GET", path: "/livez"}).want(t, 200, "")
	})
	t.Run("a change that cannot be written is 503 and nothing happened", func(t *testing.T) {
		w, id := newHouse(t)
		w.reg.Close()
		got := w.do(t, call{method: "PATCH", path: "/api/devices/" + id, as: "owner", body: `{"name":"x"}`}).want(t, 503, "store_unavailable")
		checkRefusal(t, got)
		if got := w.do(t, call{method: "GET", path: "/api/devices/" + id, as: "owner"}).want(t, 200, ""); got.at("name") != nil {
			t.Errorf("got %s", got.raw)
		}
	})
}

func TestDocuments(t *testing.T) {
	w := newWorld(t, nil)
	for path, want := range map[string][]byte{"/openapi.yaml": devicecloud.OpenAPI, "/asyncapi.yaml": devicecloud.AsyncAPI} {
		if got := w.do(t, call{method: "GET", path: path}); got.raw != string(want) || got.status != 200 {
			t.Errorf("%s differs from the file", path)
		}
	}
}

func TestMetrics(t *testing.T) {
	w, id := newHouse(t)
	w.connect(t, id)
	w.do(t, call{method: "GET", path: "/api/v1/devices/" + id, as: "owner"}).want(t, 200, "")
	w.do(t, call{method: "GET", path: "/api/devices/" + strings.Repeat("0", 32), as: "owner"}).want(t, 404, "device_not_found")
	w.do(t, call{method: "GET", path: "/wp-login.php"}).want(t, 404, "not_found")
	text := w.scrape(t)
	for _, line := range []string{
		`registry_api_requests_total{code="200",method="GET",route="/api/devices/{id}"} 1`,
		`registry_api_requests_total{code="404",method="GET",route="/api/devices/{id}"} 1`,
		`registry_api_requests_total{code="404",method="GET",route="unmatched"} 1`,
		`registry_api_request_seconds_count{route="/api/devices/{id}"} 2`,
		"registry_devices 1\n", "registry_devices_online 1\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("%s is missing", line)
		}
	}
	if strings.Contains(text, "wp-login") || strings.Contains(text, id) {
		t.Error("a client's text became a label")
	}
	t.Run("the fleet is counted at most every ten seconds", func(t *testing.T) {
		w.enroll(t, "02:00:00:00:00:02")
		if text := w.scrape(t); !strings.Contains(text, "registry_devices 1\n") {
			t.Error("counted again at once")
		}
		w.clock.Add(10 * time.Second)
		if text := w.scrape(t); !strings.Contains(text, "registry_devices 2\n") {
			t.Error("not counted again")
		}
	})
}

func TestPanics(t *testing.T) {
	for name, c := range map[string]struct {
		panics func(http.ResponseWriter)
		whole  bool // the client gets a whole answer
	}{
		"before an answer":           {func(w http.ResponseWriter) { _ = []int{}[len(w.Header())] }, true},
		"with a secret":              {func(http.ResponseWriter) { panic("canary-panic") }, true},
		"in the middle of one":       {func(w http.ResponseWriter) { fmt.Fprint(w, "half"); panic("canary-panic") }, false},
		"to abort, as net/http does": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, false},
	} {
		t.Run("a panic "+name, func(t *testing.T) {
			w := newWorld(t, func(d *httpapi.Deps, _ *httpapi.Options) {
				d.WebSocket = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.panics(w) })
			})
			srv := httptest.NewServer(w)
			defer srv.Close()
			res, err := http.Get(srv.URL + "/mqtt")
			if err == nil {
				defer res.Body.Close()
				var body []byte
				if body, err = io.ReadAll(res.Body); err == nil && (res.StatusCode != 500 || !strings.Contains(string(body), `"internal_error"`)) {
					t.Errorf("got %d %s", res.StatusCode, body)
				}
			}
			if (err == nil) != c.whole {
				t.Errorf("got %v", err)
			}
			if strings.Contains(w.logs.String(), "canary-panic") {
				t.Error("the panic's value is in the log")
			}
			res, err = http.Get(srv.URL + "/livez")
			if err != nil || res.StatusCode != 200 {
				t.Fatal("the server is gone", err)
			}
			res.Body.Close()
		})
	}
}

func TestWebSocketsPassThrough(t *testing.T) {
	w := newWorld(t, func(d *httpapi.Deps, _ *httpapi.Options) {
		upgrader := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
		d.WebSocket = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer ws.Close()
			kind, b, err := ws.ReadMessage()
			if err == nil {
				_ = ws.WriteMessage(kind, b)
			}
		})
	})
	srv := httptest.NewServer(w)
	defer srv.Close()
	dialer := websocket.Dialer{Subprotocols: []string{"mqtt"}}
	ws, res, err := dialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http")+"/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	defer ws.Close()
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if _, b, err := ws.ReadMessage(); err != nil || len(b) != 3 {
		t.Errorf("got %v, %v", b, err)
	}
}

func TestServer(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httpapi.Server(w, slog.New(slog.DiscardHandler))
	if srv.ReadHeaderTimeout != 5*time.Second || srv.ReadTimeout <= 0 || srv.ReadTimeout > time.Minute || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes > 64<<10 {
		t.Errorf("the server is %+v", srv)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	url := "http://" + l.Addr().String()
	t.Run("HEAD is GET without a body", func(t *testing.T) {
		res, err := http.Head(url + "/openapi.yaml")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, _ := io.ReadAll(res.Body); res.StatusCode != 200 || len(b) != 0 {
			t.Errorf("got %d, %d bytes", res.StatusCode, len(b))
		}
	})
	t.Run("a body without a length is bounded too", func(t *testing.T) {
		r, err := http.NewRequest("POST", url+"/admin/auth/login", io.LimitReader(endless{}, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 413 {
			t.Errorf("got %d", res.StatusCode)
		}
	})
	t.Run("a body that is cut is a bad request", func(t *testing.T) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprint(c, "POST /admin/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"email\"")
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var p struct{ Error string }
		if err := json.NewDecoder(res.Body).Decode(&p); err != nil || res.StatusCode != 400 || p.Error != "invalid_request" {
			t.Errorf("got %d %v, %v", res.StatusCode, p, err)
		}
	})
}

// What the limits of the server are is TestServer's; here they are short.
func TestSlowClientsAreGivenUp(t *testing.T) {
	w := newWorld(t, nil)
	srv := httptest.NewUnstartedServer(w)
	srv.Config = httpapi.Server(w, slog.New(slog.DiscardHandler))
	srv.Config.ReadHeaderTimeout, srv.Config.ReadTimeout, srv.Config.IdleTimeout = 100*time.Millisecond, 300*time.Millisecond, 100*time.Millisecond
	srv.Start()
	defer srv.Close()
	for name, c := range map[string]struct {
		begin  string
		status int // of the answer; 0: none
	}{
		"who says nothing":             {"", 0},
		"in the middle of the headers": {"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ", 0},
		"in the middle of a body":      {"POST /admin/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", 400},
		"in the middle of a chunk":     {"POST /admin/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", 400},
		"after an answer":              {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 200},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, c.begin); err != nil {
				t.Fatal(err)
			}
			all, err := io.ReadAll(conn) // until the server closes
			if err != nil {
				t.Fatalf("it is still open: %v", err)
			}
			if c.status == 0 && strings.Contains(string(all), " 200 ") || c.status != 0 && !strings.HasPrefix(string(all), fmt.Sprintf("HTTP/1.1 %d ", c.status)) {
				t.Errorf("it gets %q", all)
			}
		})
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// What is worth a password is in no log line and in no answer but the one that
// hands it out.
func TestSecretsStayInside(t *testing.T) {
	w, id := newHouse(t)
	answers := ""
	do := func(c call) {
		got := w.do(t, c)
		answers += got.raw + fmt.Sprint(got.header)
	}
	secrets := []string{adminPassword, "canary-wrong-password", deviceSecret, sha256Hex(deviceSecret), sha256Hex("canary-rotated"), sha256Hex("canary-claim"), "canary-query", "canary-id-token"}
	for _, token := range w.tokens {
		secrets = append(secrets, token, token[len(token)-43:])
	}
	do(call{method: "POST", path: "/admin/auth/login", body: `{"email":"root@example.com","password":"canary-wrong-password"}`})
	do(call{method: "POST", path: "/admin/auth/login", body: `{"email":"canary-wrong-password","password":"canary-wrong-password"}`})
	do(call{method: "POST", path: "/admin/auth/login", body: `{"email":"x","password":"canary-wrong-password"`})
	do(call{method: "POST", path: "/admin/auth/login", body: `{"email":"x","password":["canary-wrong-password"]}`})
	do(call{method: "POST", path: "/api/auth/app-token", body: `{"provider":"dev","id_token":"canary-id-token"}`})
	do(call{method: "POST", path: "/api/auth/app-token", body: `{"provider":"canary-id-token","id_token":"canary-id-token"}`})
	do(call{method: "POST", path: "/admin/enroll", as: "admin", body: `{"mac_address":"02:00:00:00:00:01","device_secret_hash":"` + sha256Hex(deviceSecret) + `"}`})
	do(call{method: "POST", path: "/admin/enroll", as: "admin", body: `{"mac_address":"02:00:00:00:00:07","device_secret_hash":"` + sha256Hex(deviceSecret) + `","claim_secret_hash":"` + sha256Hex("canary-claim") + `"}`})
	do(call{method: "POST", path: "/admin/enroll", as: "admin", body: `{"mac_address":"02:00:00:00:00:08","device_secret_hash":"` + sha256Hex(deviceSecret) + `00"}`})
	do(call{method: "POST", path: "/admin/devices/" + id + "/credentials", as: "admin", body: `{"kind":"hmac","secret_hash":"` + sha256Hex("canary-rotated") + `"}`})
	do(call{method: "POST", path: "/admin/devices/import?partial=true", as: "admin", header: map[string]string{"Content-Type": "text/csv"}, body: "mac_address,device_secret_hash\nx," + sha256Hex(deviceSecret) + "\n02:00:00:00:00:0a," + sha256Hex(deviceSecret) + "ff\n"})
	for _, path := range []string{"/admin/devices/" + id, "/admin/devices", "/admin/audit", "/admin/devices/" + id + "/audit", "/api/devices/" + id, "/api/me?access_token=canary-query", "/nowhere?token=canary-query"} {
		do(call{method: "GET", path: path, as: "admin"})
	}
	do(call{method: "GET", path: "/api/me", header: map[string]string{"Authorization": "Bearer " + w.tokens["admin"] + "x"}})
	w.reg.Close() // errors of our own are logged with their cause
	do(call{method: "POST", path: "/admin/enroll", as: "admin", body: `{"mac_address":"02:00:00:00:00:0c","device_secret_hash":"` + sha256Hex(deviceSecret) + `"}`})
	logs := w.logs.String()
	if !strings.Contains(logs, "http request") || !strings.Contains(logs, "request failed") {
		t.Fatal("nothing was logged")
	}
	for _, s := range secrets {
		if strings.Contains(logs, s) {
			t.Errorf("%.24s... is in the log", s)
		}
		if strings.Contains(answers, s) {
			t.Errorf("%.24s... is in an answer", s)
		}
	}
}

func FuzzCursor(f *testing.F) {
	for _, l := range httpapi.Lists {
		f.Add(l.Cursor(1))
		f.Add(l.Cursor(1<<63 - 1))
	}
	f.Add("AAAAAAAAAAAA")
	f.Add("Y0000\n0000000")
	f.Fuzz(func(t *testing.T, s string) {
		taken := 0
		for _, l := range httpapi.Lists {
			key, err := l.Parse(s)
			switch {
			case err != nil:
				if registry.KindOf(err) != registry.Invalid {
					t.Error(err)
				}
			case s == "":
			case key <= 0 || l.Cursor(key) != s:
				t.Errorf("%q is %d, which is written %q", s, key, l.Cursor(key))
			default:
				taken++
			}
		}
		if taken > 1 {
			t.Errorf("%q is a cursor of %d lists", s, taken)
		}
	})
}
