package broker_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/opticworks/devicecloud/broker"
)

// webServer serves the broker's WebSocket handler.
func webServer(t testing.TB, h *house, secure bool) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h.WebSocket())
	if secure {
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = h.Shutdown(ctx) // or the server would wait for the connections
		s.Close()
	})
	return s
}

func dialWebSocket(t testing.TB, s *httptest.Server, subprotocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: subprotocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	ws, resp, err := d.Dial("ws"+strings.TrimPrefix(s.URL, "http"), nil)
	if err == nil {
		t.Cleanup(func() { _ = ws.Close() })
	}
	return ws, resp, err
}

// messages is an MQTT client's byte stream over WebSocket.
type messages struct {
	net.Conn
	ws  *websocket.Conn
	msg io.Reader
}

func (m *messages) Write(p []byte) (int, error) {
	return len(p), m.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (m *messages) Read(p []byte) (int, error) {
	for {
		if m.msg == nil {
			_, msg, err := m.ws.NextReader()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			m.msg = msg
		}
		n, err := m.msg.Read(p)
		if err == io.EOF {
			m.msg, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func webSocketClient(t testing.TB, h *house, secure bool, ver byte) *client {
	t.Helper()
	ws, _, err := dialWebSocket(t, webServer(t, h, secure), "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	return wrap(t, &messages{Conn: ws.NetConn(), ws: ws}, ver)
}

func TestWebSocket(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, ver := range []byte{4, 5} {
			h := start(t, nowhere)
			t.Run("carries a session like any other connection", func(t *testing.T) {
				c := webSocketClient(t, h, secure, ver).open("browser")
				cl, _ := h.Server().Clients.Get("browser")
				if conn, ok := broker.ConnOf(cl); !ok || !conn.WebSocket() || conn.TLS() != secure || conn.RemoteAddr().String() != c.LocalAddr().String() {
					t.Error("the connection does not know what it is")
				}
				c.say(c.subscribe("a", 1, 1))
				c.want(9)
				p := c.publish("a", "hello", 1, 2)
				for _, b := range p { // packets need not be aligned with messages
					c.say(raw(b))
				}
				c.want(4)
				c.want(3)
				c.say(append(ping(), ping()...))
				c.want(13)
				c.want(13)
				c.say(c.subscribe("", 0, 3))
				if got, want := c.rest(), lastWord(ver, 0x81, true); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			})
		}
	}
	t.Run("must offer the subprotocol mqtt", func(t *testing.T) {
		h := start(t, nowhere)
		s := webServer(t, h, false)
		for _, offered := range [][]string{nil, {"mqttv3.1"}} {
			if _, resp, err := dialWebSocket(t, s, offered...); err == nil || resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%v: %v %v", offered, resp, err)
			}
		}
		ws, _, err := dialWebSocket(t, s, "other", "mqtt")
		if err != nil || ws.Subprotocol() != "mqtt" {
			t.Errorf("%v", err)
		}
	})
	t.Run("closes on a message that is not binary", func(t *testing.T) {
		h := start(t, nowhere)
		ws, _, err := dialWebSocket(t, webServer(t, h, false), "mqtt")
		if err != nil {
			t.Fatal(err)
		}
		_ = ws.WriteMessage(websocket.TextMessage, connect(4, "x"))
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Error(err)
		}
	})
	t.Run("is closed when no CONNECT comes", func(t *testing.T) {
		h := start(t, nowhere, func(s *setup) { s.Limits.ConnectTimeout = 200 * time.Millisecond })
		c := webSocketClient(t, h, false, 4)
		if got := c.rest(); got != "" {
			t.Error(got)
		}
	})
	t.Run("is refused with 503 above the limits and while draining", func(t *testing.T) {
		h := start(t, nowhere, func(s *setup) { s.Limits.MaxConnections = 1 })
		s := webServer(t, h, false)
		ws, _, err := dialWebSocket(t, s, "mqtt")
		if err != nil {
			t.Fatal(err)
		}
		c := wrap(t, &messages{Conn: ws.NetConn(), ws: ws}, 5).open("one")
		unavailable := func() {
			t.Helper()
			if _, resp, err := dialWebSocket(t, s, "mqtt"); err == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("%v %v", resp, err)
			}
		}
		unavailable()
		var all bytes.Buffer
		go h.stop(t)
		_, _ = io.Copy(&all, c.r)
		if all.Len() < 4 || all.Bytes()[0] != 0xe0 || all.Bytes()[2] != 0x8b {
			t.Errorf("%x", all.Bytes())
		}
		unavailable()
	})
	t.Run("is limited by rate", func(t *testing.T) {
		h := start(t, nowhere, func(s *setup) { s.Limits.AcceptRate, s.Limits.AcceptBurst = 0.01, 1 })
		s := webServer(t, h, false)
		if _, _, err := dialWebSocket(t, s, "mqtt"); err != nil {
			t.Fatal(err)
		}
		if _, resp, err := dialWebSocket(t, s, "mqtt"); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%v %v", resp, err)
		}
	})
}

// A handler in front that trusts a proxy writes the client's address into the request.
func TestWebSocketBehindProxy(t *testing.T) {
	h := start(t, nowhere, func(s *setup) { s.Limits.MaxConnectionsPerAddress = 1 })
	for _, from := range []string{"203.0.113.9", "[2001:db8::9]:4711", "unix"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = from
			h.WebSocket().ServeHTTP(w, r)
		}))
		t.Cleanup(func() { h.stop(t); s.Close() })
		ws, _, err := dialWebSocket(t, s, "mqtt")
		if err != nil {
			t.Fatal(err)
		}
		wrap(t, &messages{Conn: ws.NetConn(), ws: ws}, 4).open("browser " + from)
		cl, _ := h.Server().Clients.Get("browser " + from)
		if conn, _ := broker.ConnOf(cl); !strings.HasPrefix(conn.RemoteAddr().String(), from) {
			t.Errorf("from %s, not %s", conn.RemoteAddr(), from)
		}
		if _, _, err := dialWebSocket(t, s, "mqtt"); (err != nil) != (from != "unix") {
			t.Errorf("a second connection from %s: %v", from, err)
		}
	}
}
