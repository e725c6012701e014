package httpapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/opticworks/devicecloud"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/httpapi"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
	"github.com/opticworks/devicecloud/topic"
	"github.com/opticworks/devicecloud/webhook"
	"github.com/prometheus/client_golang/prometheus"
)

// courier is MQTT as the registry sees it: it remembers whom it disconnected.
type courier struct {
	mu           sync.Mutex
	connected    map[string]bool
	disconnected []string
}

func (*courier) Takes(string, topic.Kind) bool            { return false }
func (*courier) Deliver(string, topic.Kind, []byte) error { return registry.ErrOffline }
func (*courier) Announce(string, topic.Kind, []byte)      {}
func (*courier) Watched() bool                            { return false }
func (*courier) ExpireSession(string, int64, time.Time)   {}
func (*courier) DeliverCommand(string, int64, registry.CommandDelivery) error {
	return registry.ErrOffline
}
func (*courier) AccessChanged(string)      {}
func (*courier) Sessions() []registry.Live { return nil }

func (c *courier) Disconnect(deviceID string, _ registry.Reason) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.connected[deviceID]
	delete(c.connected, deviceID)
	c.disconnected = append(c.disconnected, deviceID)
	return was
}

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// safeBuffer is a log that handlers may write at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

const (
	adminEmail    = "root@example.com"
	adminPassword = "canary-admin-password"
	deviceSecret  = "canary-device-secret-0123456789abcdef"
)

// world is the face over the real domains and a real store.
type world struct {
	http.Handler
	db       *sqlstore.DB
	reg      *registry.Registry
	accounts *account.Service
	plans    *dataplan.Service
	rollouts *rollout.Service
	courier  *courier
	mails    mailer
	clock    *clock
	logs     *safeBuffer
	metrics  *prometheus.Registry
	contract routers.Router
	tokens   map[string]string

	model      *model
	ingestWait time.Duration // of who delivers events
}

func newWorld(t testing.TB, change func(*httpapi.Deps, *httpapi.Options)) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{
		clock: &clock{t: time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC)}, logs: &safeBuffer{}, metrics: prometheus.NewRegistry(),
		courier: &courier{connected: map[string]bool{}}, tokens: map[string]string{},
		mails: make(mailer, 1024),
	}
	log := slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if w.db, err = sqlstore.Open(ctx, schematest.SQLite(t), sqlstore.Options{Logger: log}); err != nil {
		t.Fatal(err)
	}
	nextID := registry.NewIDSource(time.Now)
	w.reg = registry.New(w.db.Registry(), w.courier, registry.Options{Now: w.clock.Now, NextID: nextID, Linger: time.Millisecond, Logger: log})
	t.Cleanup(func() {
		if w.accounts != nil {
			w.accounts.CloseMail(ctx)
		}
		w.reg.Close()
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	key, _, err := account.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	w.accounts, err = account.New(w.db.Accounts(), w.reg, account.Options{
		SigningKey: key, Now: w.clock.Now, NextID: nextID, Dev: true, Logger: log, Hash: account.HashParams{MemoryKiB: 64, Passes: 1, Lanes: 1},
		Mailer: w.mails, LinkPage: "https://cloud.example.com/auth/magic",
	})
	if err != nil {
		t.Fatal(err)
	}
	w.plans = dataplan.New(w.db.DataPlans(), w.reg, dataplan.Options{Now: w.clock.Now, NextID: nextID, Logger: log, Pages: "https://cloud.example.com"})
	w.rollouts = rollout.New(w.db.Rollouts(), w.reg, w.courier, rollout.Options{Now: w.clock.Now, NextID: nextID, Logger: log})
	service := media.New(w.db.Media(), w.reg, media.Options{Now: w.clock.Now, NextID: nextID, Logger: log})
	w.model = &model{}
	deps := httpapi.Deps{
		Registry: w.reg, Accounts: w.accounts,
		Rollouts:   w.rollouts,
		Webhooks:   webhook.New(w.db.Webhooks(), w.reg, webhook.Options{Now: w.clock.Now, NextID: nextID, Logger: log}),
		DataPlans:  w.plans,
		Media:      service,
		Classifier: media.NewClassifier(service, w.db.Classifications(), media.ClassifyOptions{Model: w.model, ModelID: "model-1", DailyLimit: 50, Now: w.clock.Now, NextID: nextID, Logger: log}),
		Ingestor: media.NewIngestor(w.db.Ingest(), media.IngestOptions{
			Keys: []media.IngestKey{ingestKey}, Now: w.clock.Now, NextID: nextID, Logger: log, Tell: w.reg.Tell,
			Limit: func(string) time.Duration { return w.ingestWait },
		}),
	}
	opts := httpapi.Options{Logger: log, Registerer: w.metrics, Now: w.clock.Now}
	if change != nil {
		change(&deps, &opts)
	}
	w.Handler = httpapi.New(deps, opts)
	w.contract = contract(t)
	return w
}

// loadContract reads openapi.yaml once: reading takes longer than a test.
var loadContract = sync.OnceValues(func() (*openapi3.T, error) {
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.RegisteredBodyDecoder("text/plain"))
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.PlainBodyDecoder)
	doc, err := openapi3.NewLoader().LoadFromData(devicecloud.OpenAPI)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

func document(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// contract is openapi.yaml, ready to hold requests against.
func contract(t testing.TB) routers.Router {
	t.Helper()
	router, err := gorillamux.NewRouter(document(t))
	if err != nil {
		t.Fatal(err)
	}
	return router
}

// call is one request.
type call struct {
	method, path string
	as           string // key of world.tokens; "" is nobody
	body         string
	header       map[string]string // instead of what a body of JSON needs
	remote       string            // default 198.51.100.1:1234
}

// reply is its answer.
type reply struct {
	status int
	header http.Header
	raw    string
	body   map[string]any // nil when it is no JSON object
}

// do sends a request and holds it and its answer against the contract: every answer
// is one that the contract names, and what was taken is a request that it allows.
func (w *world) do(t testing.TB, c call) reply {
	t.Helper()
	build := func() *http.Request {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		if c.remote == "" {
			c.remote = "198.51.100.1:1234"
		}
		r.RemoteAddr = c.remote
		if c.body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		if c.as != "" {
			token, ok := w.tokens[c.as]
			if !ok {
				t.Fatalf("nobody is called %q", c.as)
			}
			r.Header.Set("Authorization", "Bearer "+token)
		}
		for k, v := range c.header {
			r.Header.Set(k, v)
		}
		return r
	}
	rec := httptest.NewRecorder()
	ctx, gone := context.WithCancel(t.Context())
	defer gone()
	// Only a stream flushes: its client goes when it has seen the beginning.
	w.ServeHTTP(flushed{rec, gone}, build().WithContext(ctx))
	got := reply{status: rec.Code, header: rec.Result().Header, raw: rec.Body.String()}
	if strings.HasPrefix(got.header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal([]byte(got.raw), &got.body); err != nil {
			t.Errorf("%s %s answers %q: %v", c.method, c.path, got.raw, err)
		}
	}
	w.hold(t, build(), got)
	if number := inFull.FindString(got.raw); number != "" && c.as != permitted {
		t.Errorf("%s %s answers %q with the SIM card's number %s", c.method, c.path, c.as, number)
	}
	return got
}

// inFull is a SIM card's number that is not masked; permitted is who may see one.
// [contracts E.4]
var inFull = regexp.MustCompile(`\b89\d{17,18}\b`)

const permitted = "desk"

// flushed is told when an answer is flushed.
type flushed struct {
	*httptest.ResponseRecorder
	then func()
}

// FlushError is what http.ResponseController looks for.
func (f flushed) FlushError() error {
	f.then()
	return nil
}

// hold compares one exchange with the contract.
func (w *world) hold(t testing.TB, r *http.Request, got reply) {
	t.Helper()
	if r.Method == http.MethodHead {
		return
	}
	r.URL.Path = canonical(r.URL.Path)
	r.URL.RawPath = ""
	name := r.Method + " " + r.URL.Path
	route, params, err := w.contract.FindRoute(r)
	if err != nil {
		if got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed && got.status != http.StatusTooManyRequests {
			t.Errorf("%s is not in the contract and answers %d", name, got.status)
		}
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true, MultiError: true},
	}
	if got.status < http.StatusMultipleChoices {
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			t.Errorf("%s was taken, but the contract does not allow it: %v", name, err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: got.status, Header: got.header, Options: in.Options}
	out.Body = io.NopCloser(strings.NewReader(got.raw))
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		t.Errorf("%s answers %d, which is not the contract: %v\n%s", name, got.status, err, got.raw)
	}
}

// want fails the test unless the status and, for errors, the code are as given.
func (r reply) want(t testing.TB, status int, code string) reply {
	t.Helper()
	got, _ := r.body["error"].(string)
	if r.status != status || got != code {
		t.Fatalf("got %d %q, want %d %q: %s", r.status, got, status, code, r.raw)
	}
	return r
}

// text is a member of the answer, by path.
func (r reply) at(path ...any) any {
	var v any = r.body
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func (r reply) len(name string) int {
	l, _ := r.body[name].([]any)
	return len(l)
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// login gives somebody a token under a name, over the API.
func (w *world) login(t testing.TB, name, email string) (userID string) {
	t.Helper()
	r := w.do(t, call{method: "POST", path: "/api/auth/app-token", body: `{"provider":"dev","id_token":"` + email + `"}`})
	r.want(t, http.StatusOK, "")
	w.tokens[name] = r.at("access_token").(string)
	return r.at("user", "user_id").(string)
}

// staff gives "admin" and "support" tokens, over the API.
func (w *world) staff(t testing.TB) {
	t.Helper()
	for name, role := range map[string]account.AdminRole{"admin": account.AdminRoleAdmin, "support": account.AdminRoleSupport} {
		email := adminEmail
		if name == "support" {
			email = "help@example.com"
		}
		if _, err := w.accounts.CreateAdmin(context.Background(), email, adminPassword, role); err != nil {
			t.Fatal(err)
		}
		r := w.do(t, call{method: "POST", path: "/admin/auth/login", body: `{"email":"` + email + `","password":"` + adminPassword + `"}`})
		r.want(t, http.StatusOK, "")
		w.tokens[name] = r.at("access_token").(string)
	}
}

// enroll enrols a device over the API, as the administrator.
func (w *world) enroll(t testing.TB, mac string) (deviceID string) {
	t.Helper()
	r := w.do(t, call{method: "POST", path: "/admin/enroll", as: "admin", body: `{"mac_address":"` + mac + `","device_secret_hash":"` + sha256Hex(deviceSecret) + `"}`})
	r.want(t, http.StatusCreated, "")
	return r.at("device_id").(string)
}

// connect opens a session of an enrolled device, as the MQTT face would.
func (w *world) connect(t testing.TB, deviceID string) *registry.Session {
	t.Helper()
	ctx := context.Background()
	id, err := w.reg.Authenticate(ctx, registry.Login{DeviceID: deviceID, Password: []byte(deviceSecret), HasPassword: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.reg.Connect(ctx, id, registry.ConnectInfo{Remote: "203.0.113.9:4321", Protocol: 4})
	if err != nil {
		t.Fatal(err)
	}
	w.courier.mu.Lock()
	defer w.courier.mu.Unlock()
	w.courier.connected[deviceID] = true
	return s
}

// give writes a role on a device, as sharing will.
func (w *world) give(t testing.TB, deviceID, userID string, role registry.Role) {
	t.Helper()
	ctx := context.Background()
	err := w.db.Registry().InTx(ctx, func(tx registry.Tx) error {
		d, err := tx.Device(ctx, deviceID)
		if err != nil {
			return err
		}
		o := registry.Ownership{DeviceNo: d.No, UserID: userID, Role: role, At: w.clock.Now()}
		if role == registry.RoleOwner {
			o.ClaimedAt, o.ClaimedVia = w.clock.Now(), "purchase"
		} else {
			o.SharedAt, o.SharedBy = w.clock.Now(), "somebody"
		}
		_, err = tx.InsertOwnership(ctx, o)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// house is a world with a device, its people and staff.
func newHouse(t testing.TB) (w *world, deviceID string) {
	t.Helper()
	w = newWorld(t, nil)
	w.staff(t)
	deviceID = w.enroll(t, "02:00:00:00:00:01")
	for name, role := range map[string]registry.Role{"owner": registry.RoleOwner, "shared": registry.RoleAdmin, "viewer": registry.RoleViewer} {
		w.give(t, deviceID, w.login(t, name, name+"@example.com"), role)
	}
	w.login(t, "stranger", "stranger@example.com")
	w.do(t, call{
		method: "POST", path: "/admin/sims/import", as: "admin", header: map[string]string{"Content-Type": "text/csv"},
		body: "iccid,eid,imsi,msisdn,device_id\n8900000000000000017,89000000000000000000000000000017,901000000000017,882000000017," + deviceID + "\n",
	}).want(t, 200, "")
	return w, deviceID
}
