package fleet_test

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// fakeCloud is the least server that a fleet can live with: takeover, presence by epoch, provisioning, a registry. Its
// faults are the negative controls: with each of them a scenario must fail.
type fakeCloud struct {
	url string // mqtt://
	api string // http://

	lateOffline bool // an old connection's end marks the device offline although a newer one lives
	twins       bool // a takeover leaves the old connection open
	deaf        bool // PUBLISH is not acknowledged on a connection that took another one over
	forgets     bool // PUBACK without storing
	refuses     mqttwire.ReasonCode
	brief       bool // the list leaves out the uptime, which a device's own page has; no fault
	closes      bool // every connection is closed at once after CONNACK

	ln    net.Listener
	group sync.WaitGroup

	mu      sync.Mutex
	devices map[string]*fakeDevice
	conns   map[net.Conn]bool
	topics  map[string]int
	seen    map[string][]byte // the last payload by topic suffix
	logins  int
	expired bool // the next request's token is refused
}

type fakeDevice struct {
	mac, secretHash string
	epoch           int
	conn            net.Conn
	online          bool
	uptime          int64
	provisioned     bool
	owner           string
}

func startCloud(t *testing.T, setUp func(*fakeCloud)) *fakeCloud {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &fakeCloud{ln: ln, devices: map[string]*fakeDevice{}, conns: map[net.Conn]bool{}, topics: map[string]int{}, seen: map[string][]byte{}}
	if setUp != nil {
		setUp(c)
	}
	c.url = "mqtt://" + ln.Addr().String()
	server := httptest.NewServer(c.routes())
	c.api = server.URL
	c.group.Go(c.accept)
	t.Cleanup(func() {
		server.Close()
		_ = ln.Close()
		c.dropAll()
		c.group.Wait()
	})
	return c
}

func (c *fakeCloud) accept() {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		c.conns[conn] = true
		c.mu.Unlock()
		c.group.Go(func() {
			defer func() {
				_ = conn.Close()
				c.mu.Lock()
				delete(c.conns, conn)
				c.mu.Unlock()
			}()
			c.serve(conn)
		})
	}
}

func (c *fakeCloud) dropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func write(conn net.Conn, v mqttwire.Version, p mqttwire.Packet) bool {
	b, err := p.Append(nil, v)
	if err != nil {
		return false
	}
	_, err = conn.Write(b)
	return err == nil
}

func (c *fakeCloud) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	hello, err := mqttwire.ReadPacket(r, mqttwire.V311)
	if err != nil || hello.Connect == nil {
		return
	}
	v, id := hello.Connect.Version, hello.Connect.ClientID
	c.mu.Lock()
	device := c.devices[id]
	sum := sha256.Sum256(hello.Connect.Password)
	allowed := device != nil && device.secretHash == hex.EncodeToString(sum[:]) && hello.Connect.Username == id
	code := c.refuses
	if !allowed && code == 0 {
		code = mqttwire.Refused311Credential
	}
	if code != 0 {
		c.mu.Unlock()
		write(conn, v, mqttwire.Packet{Type: mqttwire.CONNACK, ReasonCode: code})
		return
	}
	superseded := device.conn
	if superseded != nil && !c.twins {
		_ = superseded.Close()
	}
	device.epoch++
	mine := device.epoch
	device.conn, device.online = conn, true
	c.mu.Unlock()
	defer c.ended(device, mine)
	if !write(conn, v, mqttwire.Packet{Type: mqttwire.CONNACK}) || c.closes {
		return
	}
	for {
		p, err := mqttwire.ReadPacket(r, v)
		if err != nil || !c.answer(conn, v, id, p, superseded != nil) {
			return
		}
	}
}

// ended is fenced by epoch, unless the cloud is to be wrong.
func (c *fakeCloud) ended(device *fakeDevice, epoch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if device.epoch == epoch {
		device.conn, device.online = nil, false
	} else if c.lateOffline {
		device.online = false
	}
}

func (c *fakeCloud) answer(conn net.Conn, v mqttwire.Version, id string, p *mqttwire.Packet, tookOver bool) bool {
	switch p.Type {
	case mqttwire.SUBSCRIBE:
		return write(conn, v, mqttwire.Packet{Type: mqttwire.SUBACK, PacketID: p.PacketID, ReasonCodes: make([]mqttwire.ReasonCode, len(p.Filters))})
	case mqttwire.PINGREQ:
		return write(conn, v, mqttwire.Packet{Type: mqttwire.PINGRESP})
	case mqttwire.DISCONNECT:
		return false
	case mqttwire.PUBLISH:
		suffix := strings.TrimPrefix(p.Topic, "opticworks/"+id+"/")
		c.store(id, suffix, p.Payload)
		if p.QoS == 1 && !(c.deaf && tookOver) && !write(conn, v, mqttwire.Packet{Type: mqttwire.PUBACK, PacketID: p.PacketID}) {
			return false
		}
		if suffix == "provision" {
			return write(conn, v, mqttwire.Packet{
				Type: mqttwire.PUBLISH, Topic: p.Topic + "/response", QoS: 1, PacketID: 1,
				Payload: []byte(`{"status":"registered","device_id":"` + id + `","owner":null,"timestamp":"2026-01-15T10:00:00Z"}`),
			})
		}
	}
	return true
}

func (c *fakeCloud) store(id, suffix string, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics[suffix]++
	c.seen[suffix] = payload
	if c.forgets {
		return
	}
	device := c.devices[id]
	switch suffix {
	case "state":
		var state struct {
			UptimeSec int64 `json:"uptime_sec"`
		}
		if json.Unmarshal(payload, &state) == nil {
			device.uptime = state.UptimeSec
		}
	case "provision":
		device.provisioned = true
	}
}

// count returns how many messages came on a topic.
func (c *fakeCloud) count(suffix string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.topics[suffix]
}

func (c *fakeCloud) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /admin/auth/login", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Email, Password string }
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.Email != "admin@example.com" || body.Password != "correct horse" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.logins++
		reply(w, map[string]any{"access_token": "token", "token_type": "Bearer"})
	})
	mux.HandleFunc("POST /admin/devices/import", c.imports(func(line []string) string {
		sum := sha256.Sum256([]byte(strings.ToLower(strings.ReplaceAll(line[0], ":", "")) + "opticworks-rs1"))
		id := hex.EncodeToString(sum[:16])
		if c.devices[id] != nil {
			return "already_enrolled"
		}
		c.devices[id] = &fakeDevice{mac: line[0], secretHash: line[1]}
		return "created"
	}))
	mux.HandleFunc("POST /admin/orders/import", c.imports(func(line []string) string {
		for _, d := range c.devices {
			if d.mac == line[2] {
				d.owner = line[1]
				return "created"
			}
		}
		return "error"
	}))
	mux.HandleFunc("GET /admin/devices", c.list)
	mux.HandleFunc("GET /admin/devices/{id}", func(w http.ResponseWriter, r *http.Request) {
		if !c.authorized(w, r) {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		row := c.devices[r.PathValue("id")].row(r.PathValue("id"))
		row["uptime_sec"] = c.devices[r.PathValue("id")].uptime
		reply(w, row)
	})
	return mux
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func (c *fakeCloud) authorized(w http.ResponseWriter, r *http.Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expired || r.Header.Get("Authorization") != "Bearer token" {
		c.expired = false
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	return true
}

func (c *fakeCloud) imports(take func(line []string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !c.authorized(w, r) {
			return
		}
		lines, err := csv.NewReader(r.Body).ReadAll()
		if err != nil || r.URL.Query().Get("partial") != "true" || r.Header.Get("Content-Type") != "text/csv" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		created, failed := 0, 0
		var answers []map[string]any
		for i, line := range lines[1:] {
			status := take(line)
			switch status {
			case "created":
				created++
			case "error":
				failed++
			}
			answers = append(answers, map[string]any{"line": i + 2, "status": status})
		}
		reply(w, map[string]any{"created": created, "failed": failed, "lines": answers})
	}
}

// list pages by threes, so that the cursor is used.
func (c *fakeCloud) list(w http.ResponseWriter, r *http.Request) {
	if !c.authorized(w, r) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, 0, len(c.devices))
	for id := range c.devices {
		if id > r.URL.Query().Get("cursor") {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, cmp.Compare[string])
	next := ""
	if len(ids) > 3 {
		ids = ids[:3]
		next = ids[2]
	}
	page := []map[string]any{}
	for _, id := range ids {
		row := c.devices[id].row(id)
		if !c.brief {
			row["uptime_sec"] = c.devices[id].uptime
		}
		page = append(page, row)
	}
	reply(w, map[string]any{"devices": page, "next_cursor": next, "total": len(c.devices), "page": 1})
}

func (d *fakeDevice) row(id string) map[string]any {
	row := map[string]any{"device_id": id, "online": d.online, "status": "offline", "provisioned_at": nil}
	if d.provisioned {
		row["provisioned_at"] = "2026-01-15T10:00:00Z"
	}
	return row
}
