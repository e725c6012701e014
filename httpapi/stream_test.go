package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/registry"
)

// event is one block of a stream.
type event struct {
	id, kind string
	data     map[string]any
	comment  bool // of a heartbeat
}

// stream is an open one, as a client reads it.
type stream struct {
	t     *testing.T
	res   *http.Response
	lines *bufio.Scanner
	close func()
}

// serve runs a world behind a real server, over HTTP/1.1 or HTTP/2.
func (w *world) serve(t *testing.T, http2 bool, change func(*httptest.Server)) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(w)
	srv.EnableHTTP2 = http2
	if change != nil {
		change(srv)
	}
	if http2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(func() {
		w.reg.CloseFeed() // or Close waits for streams
		srv.Close()
	})
	return srv
}

// stream opens one; after is Last-Event-ID.
func (w *world) stream(t *testing.T, srv *httptest.Server, as, query, after string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/api/v1/events/stream"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.tokens[as])
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	res, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{t: t, res: res, lines: bufio.NewScanner(res.Body)}
	s.close = func() {
		cancel()
		res.Body.Close()
	}
	t.Cleanup(s.close)
	return s
}

// block reads one block; io.EOF when the stream has ended in order.
func (s *stream) block() (e event, err error) {
	for s.lines.Scan() {
		line := s.lines.Text()
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "":
			if line == "" {
				return e, nil
			}
			e.comment = true
		case "id":
			e.id = value
		case "event":
			e.kind = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.data); err != nil {
				return e, err
			}
		case "retry":
		default:
			return e, fmt.Errorf("the line %q", line)
		}
	}
	if s.lines.Err() != nil {
		return e, s.lines.Err()
	}
	return e, io.EOF
}

// next is the next event; what only moves the place is passed over.
func (s *stream) next() event {
	s.t.Helper()
	for {
		e, err := s.block()
		if err != nil {
			s.t.Fatalf("the stream ended: %v", err)
		}
		if e.kind != "" {
			return e
		}
	}
}

// want reads events and compares their kinds.
func (s *stream) want(kinds ...string) (all []event) {
	s.t.Helper()
	for _, kind := range kinds {
		e := s.next()
		if e.kind != kind {
			s.t.Fatalf("the event is %s %v, want %s", e.kind, e.data, kind)
		}
		all = append(all, e)
	}
	return all
}

// end waits until the stream ends, in order.
func (s *stream) end() (rest []event) {
	s.t.Helper()
	for {
		e, err := s.block()
		if errors.Is(err, io.EOF) {
			return rest
		}
		if err != nil {
			s.t.Fatalf("the stream is cut: %v", err)
		}
		if e.kind != "" {
			rest = append(rest, e)
		}
	}
}

func (w *world) report(t *testing.T, s *registry.Session, uptime int) {
	t.Helper()
	if err := w.reg.ReportState(s, fmt.Appendf(nil, `{"online":true,"firmware_version":"1.2.3","uptime_sec":%d,"wifi_rssi":-50,"zone_count":2}`, uptime)); err != nil {
		t.Fatal(err)
	}
}

// open waits until that many streams are open.
func (w *world) open(t *testing.T, n int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(w.scrape(t), fmt.Sprintf("registry_event_streams %d\n", n)) {
		if time.Now().After(deadline) {
			t.Fatalf("there are not %d open streams", n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestEventStream(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			w, id := newHouse(t)
			srv := w.serve(t, http2, nil)
			foreign := w.connect(t, w.enroll(t, "02:00:00:00:00:02"))
			s := w.stream(t, srv, "owner", "", "")
			if h := s.res.Header; s.res.StatusCode != 200 || (s.res.ProtoMajor == 2) != http2 || h.Get("Content-Type") != "text/event-stream" || h.Get("X-Accel-Buffering") != "no" || !strings.Contains(h.Get("Cache-Control"), "no-store") {
				t.Fatalf("%s, %v", s.res.Proto, h)
			}
			first := s.want("stream.snapshot", "device.state")
			if fmt.Sprint(first[0].data["devices"]) != "["+id+"]" || first[1].data["device_id"] != id || first[1].data["status"] != "offline" || first[1].data["role"] != "owner" || first[1].id != "" {
				t.Errorf("it begins with %v", first)
			}
			device := w.connect(t, id)
			w.report(t, foreign, 1)
			w.report(t, device, 42)
			got := s.want("device.status", "device.state")
			if d := got[0].data; d["device_id"] != id || d["online"] != true || d["status"] != "online" || d["status_reason"] != "connected" || d["at"] == nil {
				t.Errorf("the status is %v", d)
			}
			if d := got[1].data; d["uptime_sec"] != 42.0 || d["wifi_rssi"] != -50.0 || d["zone_count"] != 2.0 || d["firmware_version"] != "1.2.3" || len(d) != 8 {
				t.Errorf("the state is %v", d)
			}
			w.do(t, call{method: "PATCH", path: "/api/devices/" + id, as: "owner", body: `{"name":"Kitchen"}`}).want(t, 200, "")
			if d := s.want("device.updated")[0].data; d["name"] != "Kitchen" {
				t.Errorf("the rename is %v", d)
			}
			s.close()
			w.open(t, 0)

			// It comes back with the id of the status: what it has, it does not get again.
			w.report(t, device, 43)
			s = w.stream(t, srv, "owner", "?device_id="+id, got[0].id)
			again := s.want("device.state", "device.updated", "device.state")
			if again[0].id != got[1].id || again[2].data["uptime_sec"] != 43.0 {
				t.Errorf("resumed with %v", again)
			}
			w.do(t, call{method: "DELETE", path: "/api/devices/" + id, as: "owner"}).want(t, 200, "")
			w.report(t, device, 44)
			s.want("device.released")
			w.reg.CloseFeed()
			if rest := s.end(); len(rest) > 0 {
				t.Errorf("after the release it hears %v", rest)
			}
			if text := w.scrape(t); !strings.Contains(text, `registry_stream_events_total{event="device.released"} 1`) {
				t.Error("the release is not counted")
			}
		})
	}
}

func TestEventStreamOutlivesTheServersLimits(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(_ *httpapi.Deps, o *httpapi.Options) {
				o.Heartbeat, o.Patience = 500*time.Millisecond, 100*time.Millisecond
			})
			w.login(t, "a", "a@example.com")
			srv := w.serve(t, http2, func(s *httptest.Server) { s.Config.ReadTimeout = 100 * time.Millisecond })
			s := w.stream(t, srv, "a", "", "")
			for beats := 0; beats < 2; {
				e, err := s.block()
				if err != nil {
					t.Fatalf("after %d heartbeats: %v", beats, err)
				}
				if e.comment {
					beats++
					if e.id == "" {
						t.Error("a heartbeat does not say the place")
					}
				}
			}
		})
	}
}

func TestEventStreamsEnd(t *testing.T) {
	t.Run("when the session is signed out, and does not come back", func(t *testing.T) {
		w, _ := newHouse(t)
		srv := w.serve(t, false, nil)
		s, other := w.stream(t, srv, "owner", "", ""), w.stream(t, srv, "viewer", "", "")
		s.want("stream.snapshot", "device.state")
		actor, _, err := w.accounts.ActorByToken(t.Context(), w.tokens["owner"])
		if err != nil {
			t.Fatal(err)
		}
		if err := w.accounts.SignOut(t.Context(), actor, ""); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s.end()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it takes %v", took)
		}
		if again := w.stream(t, srv, "owner", "", ""); again.res.StatusCode != 401 {
			t.Errorf("it comes back with %d", again.res.StatusCode)
		}
		other.want("stream.snapshot", "device.state")
		w.open(t, 1)
	})
	t.Run("when the token expires", func(t *testing.T) {
		w, _ := newHouse(t)
		srv := w.serve(t, false, nil)
		_, until, err := w.accounts.ActorByToken(t.Context(), w.tokens["owner"])
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Add(until.Sub(w.clock.Now()) - 200*time.Millisecond)
		s := w.stream(t, srv, "owner", "", "")
		began := time.Now()
		s.end()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it takes %v", took)
		}
	})
	t.Run("at once when the program does, and none begins", func(t *testing.T) {
		w, _ := newHouse(t)
		srv := w.serve(t, true, nil)
		s := w.stream(t, srv, "owner", "", "")
		w.reg.CloseFeed()
		s.end()
		w.do(t, call{method: "GET", path: "/api/events/stream", as: "owner"}).want(t, 503, "not_ready")
	})
	t.Run("when the client does not read, and nobody waits for it", func(t *testing.T) {
		w, id := newHouse(t)
		srv := w.serve(t, false, func(s *httptest.Server) {
			s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
				_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
				return ctx
			}
		})
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET /api/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", w.tokens["owner"])
		w.open(t, 1)
		device, slowest := w.connect(t, id), time.Duration(0)
		for n := 0; n < 20000 && !strings.Contains(w.scrape(t), "registry_event_streams 0\n"); n++ {
			began := time.Now()
			w.report(t, device, n)
			slowest = max(slowest, time.Since(began))
		}
		w.open(t, 0)
		if w.reg.Counters().FeedDropped.Load() == 0 {
			t.Error("nothing counts as dropped")
		}
		if slowest > 2*time.Second {
			t.Errorf("a report took %v", slowest)
		}
	})
}

func TestEventStreamsAreLimited(t *testing.T) {
	w, _ := newHouse(t)
	srv := w.serve(t, true, nil)
	var all []*stream
	for range 10 {
		all = append(all, w.stream(t, srv, "owner", "", ""))
	}
	w.login(t, "owner elsewhere", "owner@example.com")
	got := w.do(t, call{method: "GET", path: "/api/events/stream", as: "owner elsewhere"}).want(t, 429, "RATE_LIMITED")
	checkRefusal(t, got)
	w.stream(t, srv, "owner", "", "").want("stream.snapshot") // of the session that has them
	all[0].end()
	all[3].close()
	w.open(t, 9)
	w.stream(t, srv, "owner elsewhere", "", "").want("stream.snapshot")
}

func TestEventStreamOfNamedDevices(t *testing.T) {
	w, id := newHouse(t)
	second := w.enroll(t, "02:00:00:00:00:02")
	path := "/api/events/stream?device_id="
	w.do(t, call{method: "GET", path: path + second, as: "owner"}).want(t, 404, "device_not_found")
	w.do(t, call{method: "GET", path: path + "nonsense", as: "admin"}).want(t, 404, "device_not_found")
	w.do(t, call{method: "GET", path: path + strings.Repeat("0", 32), as: "admin"}).want(t, 404, "device_not_found")
	w.do(t, call{method: "GET", path: "/api/events/stream?device_id=%zz", as: "admin"}).want(t, 400, "invalid_request")
	srv := w.serve(t, true, nil)
	s := w.stream(t, srv, "support", "?device_id="+id+"&device_id="+second, "")
	snapshot := s.want("stream.snapshot", "device.state", "device.state")[0].data["devices"].([]any)
	if !slices.Contains(snapshot, any(id)) || !slices.Contains(snapshot, any(second)) {
		t.Errorf("the snapshot is of %v", snapshot)
	}
	w.connect(t, second)
	if e := s.want("device.status")[0]; e.data["device_id"] != second {
		t.Errorf("it hears %v", e)
	}
	trail := w.do(t, call{method: "GET", path: "/admin/devices/" + second + "/audit", as: "admin"}).want(t, 200, "")
	if !strings.Contains(trail.raw, "viewed_by_support") && !strings.Contains(trail.raw, "device_read") {
		t.Errorf("support's look is not audited: %s", trail.raw)
	}
}
