package media_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/sqlstore"
	"github.com/opticworks/devicecloud/sqlstore/schematest"
)

const (
	ingestPath   = "/api/v1/ingest/iot-events"
	goldenDevice = "a1b2c3d4e5f600112233445566778899"
	goldenBody   = `{"event_id":"evt-0001","device_id":"a1b2c3d4e5f600112233445566778899","type":"motion","occurred_at":"2026-01-15T09:59:58Z","data":{"score":0.87}}`
)

var (
	ingestKey = media.IngestKey{ID: "k1", Secret: []byte("test-ingest-key-0123456789abcdef")}
	nextKey   = media.IngestKey{ID: "k2", Secret: []byte("another-ingest-key-0123456789abc")}
)

// inlet is an Ingestor over a real store that knows the golden device.
type inlet struct {
	*media.Ingestor
	t   *testing.T
	db  *sqlstore.DB
	now time.Time
	log *bytes.Buffer
}

func newInlet(t *testing.T, change func(*media.IngestOptions)) *inlet {
	t.Helper()
	in := &inlet{t: t, now: time.Unix(1768471200, 0).UTC(), log: &bytes.Buffer{}}
	var err error
	if in.db, err = sqlstore.Open(t.Context(), schematest.SQLite(t), sqlstore.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.db.Close(); err != nil {
			t.Error(err)
		}
	})
	opts := media.IngestOptions{
		Keys: []media.IngestKey{ingestKey, nextKey}, Now: func() time.Time { return in.now }, NextID: registry.NewIDSource(time.Now),
		Logger: slog.New(slog.NewTextHandler(in.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&opts)
	}
	in.Ingestor = media.NewIngestor(in.db.Ingest(), opts)
	in.enrol(goldenDevice)
	return in
}

func (in *inlet) enrol(id string) (no int64) {
	in.t.Helper()
	err := in.db.Ingest().IngestTx(in.t.Context(), func(tx media.IngestTx) (err error) {
		no, err = tx.InsertDevice(in.t.Context(), registry.NewDevice{ID: id, At: in.now})
		return err
	})
	if err != nil {
		in.t.Fatal(err)
	}
	return no
}

// signed is a delivery of a body, signed now with the first key.
func (in *inlet) signed(body string) media.Delivery {
	ts := strconv.FormatInt(in.now.Unix(), 10)
	return media.Delivery{
		Method: "POST", Path: ingestPath, Body: []byte(body), From: registry.Actor{IP: "203.0.113.9", UserAgent: "lambda", RequestID: "req-9"},
		KeyID: []string{"k1"}, Timestamp: []string{ts}, Signature: []string{"v1=" + ingestKey.Sign(ts, "POST", ingestPath, []byte(body))},
	}
}

// code is the code of an error; "" for none.
func code(err error) string {
	var e *registry.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)[:min(len(fmt.Sprint(err)), 60)]
}

func (in *inlet) want(d media.Delivery, want string) media.Ingested {
	in.t.Helper()
	got, err := in.Ingest(in.t.Context(), d)
	if err == nil && want == "" {
		return got
	}
	if err == nil || code(err) != want {
		in.t.Fatalf("%v, want %q", err, want)
	}
	return got
}

// events are the events of the golden device, newest first.
func (in *inlet) events() (list []registry.Event) {
	in.t.Helper()
	err := in.db.Registry().View(in.t.Context(), func(tx registry.Tx) error {
		d, err := tx.Device(in.t.Context(), goldenDevice)
		if err != nil {
			return err
		}
		list, err = tx.Events(in.t.Context(), d.No, "", 0, 0)
		return err
	})
	if err != nil {
		in.t.Fatal(err)
	}
	return list
}

// trail is what the audit says of a kind of event, newest first.
func (in *inlet) trail(event string) (list []registry.AuditEvent) {
	in.t.Helper()
	err := in.db.Registry().View(in.t.Context(), func(tx registry.Tx) (err error) {
		list, err = tx.Audit(in.t.Context(), registry.AuditFilter{Event: event})
		return err
	})
	if err != nil {
		in.t.Fatal(err)
	}
	return list
}

// [contracts F, golden vector]
func TestGoldenSignature(t *testing.T) {
	const want = "c7f72d5dddf15fb5a010fbe040d63cd13b3cc9a4523b373e1a5353dff44c15a1"
	if got := ingestKey.Sign("1768471200", "POST", ingestPath, []byte(goldenBody)); got != want {
		t.Errorf("signature %s", got)
	}
	in := newInlet(t, nil)
	got := in.want(media.Delivery{Method: "POST", Path: ingestPath, Body: []byte(goldenBody), KeyID: []string{"k1"}, Timestamp: []string{"1768471200"}, Signature: []string{"v1=" + want}}, "")
	if got.Accepted != 1 || len(in.events()) != 1 {
		t.Errorf("%+v, events %+v", got, in.events())
	}
	e := in.events()[0]
	if e.Type != "motion" || e.Data != `{"score":0.87}` || !e.OccurredAt.Equal(time.Date(2026, 1, 15, 9, 59, 58, 0, time.UTC)) {
		t.Errorf("the event is %+v", e)
	}
}

// A signer that nobody here wrote.
func TestOpenSSLSignsAsWeDo(t *testing.T) {
	tool, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is missing: scripts/test-deps.sh")
		}
		t.Skip("openssl is missing")
	}
	in := newInlet(t, nil)
	body := `{"device_id":"` + goldenDevice + `","type":"motion","occurred_at":"2026-01-15T09:59:58Z","data":{"place":"Küche"}}`
	cmd := exec.CommandContext(t.Context(), tool, "dgst", "-sha256", "-hmac", string(ingestKey.Secret))
	cmd.Stdin = strings.NewReader("1768471200.POST." + ingestPath + "." + body)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(out))
	d := in.signed(body)
	d.Signature = []string{"v1=" + fields[len(fields)-1]}
	if got := in.want(d, ""); got.Accepted != 1 {
		t.Errorf("%+v", got)
	}
}

func TestSignatures(t *testing.T) {
	in := newInlet(t, nil)
	good := ingestKey.Sign("1768471200", "POST", ingestPath, []byte(goldenBody))
	flipped := strings.Map(func(r rune) rune { return map[rune]rune{'a': 'b', '1': '2', 'c': 'd', '7': '8'}[r] | r }, good)
	other := nextKey.Sign("1768471200", "POST", ingestPath, []byte(goldenBody))
	for name, c := range map[string]struct {
		change func(*media.Delivery)
		want   string
	}{
		"as it should be":            {func(*media.Delivery) {}, ""},
		"in upper case":              {func(d *media.Delivery) { d.Signature = []string{"v1=" + strings.ToUpper(good)} }, ""},
		"second of two":              {func(d *media.Delivery) { d.Signature = []string{"v1=" + other + ",v1=" + good} }, ""},
		"first of two":               {func(d *media.Delivery) { d.Signature = []string{"v1=" + good + ", v1=" + other} }, ""},
		"in two headers":             {func(d *media.Delivery) { d.Signature = []string{"v1=" + other, "v1=" + good} }, ""},
		"beside another version":     {func(d *media.Delivery) { d.Signature = []string{"v2=abc,v1=" + good} }, ""},
		"of no hex digit":            {func(d *media.Delivery) { d.Signature = []string{"v1="} }, "invalid_signature"},
		"of 31 hex digits":           {func(d *media.Delivery) { d.Signature = []string{"v1=" + good[:31]} }, "invalid_signature"},
		"of 33 hex digits":           {func(d *media.Delivery) { d.Signature = []string{"v1=" + good[:33]} }, "invalid_signature"},
		"of 32 hex digits":           {func(d *media.Delivery) { d.Signature = []string{"v1=" + good[:32]} }, "invalid_signature"},
		"of 63 hex digits":           {func(d *media.Delivery) { d.Signature = []string{"v1=" + good[:63]} }, "invalid_signature"},
		"of 64 wrong hex digits":     {func(d *media.Delivery) { d.Signature = []string{"v1=" + flipped[:64]} }, "invalid_signature"},
		"of 65 hex digits":           {func(d *media.Delivery) { d.Signature = []string{"v1=" + good + "0"} }, "invalid_signature"},
		"of 66 hex digits":           {func(d *media.Delivery) { d.Signature = []string{"v1=" + good + "00"} }, "invalid_signature"},
		"with a letter that is none": {func(d *media.Delivery) { d.Signature = []string{"v1=g" + good[1:]} }, "invalid_signature"},
		"of 64 bytes beyond ASCII":   {func(d *media.Delivery) { d.Signature = []string{"v1=" + strings.Repeat("é", 32)} }, "invalid_signature"},
		"without its version":        {func(d *media.Delivery) { d.Signature = []string{good} }, "invalid_signature"},
		"behind too many wrong ones": {func(d *media.Delivery) { d.Signature = []string{strings.Repeat("v1="+other+",", 9) + "v1=" + good} }, "invalid_signature"},
		"empty":                      {func(d *media.Delivery) { d.Signature = []string{""} }, "invalid_signature"},
		"missing":                    {func(d *media.Delivery) { d.Signature = nil }, "invalid_signature"},
		"by no key":                  {func(d *media.Delivery) { d.KeyID = nil }, "invalid_signature"},
		"by an unknown key":          {func(d *media.Delivery) { d.KeyID = []string{"k9"} }, "invalid_signature"},
		"by two keys":                {func(d *media.Delivery) { d.KeyID = []string{"k1", "k1"} }, "invalid_signature"},
		"by the other key":           {func(d *media.Delivery) { d.KeyID = []string{"k2"} }, "invalid_signature"},
		"of the empty key": {func(d *media.Delivery) {
			d.KeyID, d.Signature = []string{"x"}, []string{"v1=" + media.IngestKey{}.Sign("1768471200", "POST", ingestPath, []byte(goldenBody))}
		}, "invalid_signature"},
		"without a timestamp":          {func(d *media.Delivery) { d.Timestamp = nil }, "invalid_signature"},
		"with two timestamps":          {func(d *media.Delivery) { d.Timestamp = []string{"1768471200", "1768471200"} }, "invalid_signature"},
		"with an empty timestamp":      {func(d *media.Delivery) { d.Timestamp = []string{""} }, "invalid_signature"},
		"with a negative timestamp":    {func(d *media.Delivery) { d.Timestamp = []string{"-1"} }, "invalid_signature"},
		"with an endless timestamp":    {func(d *media.Delivery) { d.Timestamp = []string{strings.Repeat("9", 30)} }, "invalid_signature"},
		"with a date as timestamp":     {func(d *media.Delivery) { d.Timestamp = []string{"2026-01-15T10:00:00Z"} }, "invalid_signature"},
		"with another timestamp":       {func(d *media.Delivery) { d.Timestamp = []string{"1768471201"} }, "invalid_signature"},
		"with the timestamp spelled 0": {func(d *media.Delivery) { d.Timestamp = []string{"01768471200"} }, "invalid_signature"},
		"of another method":            {func(d *media.Delivery) { d.Method = "PUT" }, "invalid_signature"},
		"of another path":              {func(d *media.Delivery) { d.Path = "/api/internal/aws/iot-event" }, "invalid_signature"},
		"of another body":              {func(d *media.Delivery) { d.Body = append([]byte(goldenBody), ' ') }, "invalid_signature"},
		"of too large a body":          {func(d *media.Delivery) { d.Body = make([]byte, media.MaxIngestBody+1) }, "body_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			d := in.signed(goldenBody)
			c.change(&d)
			in.t = t
			in.want(d, c.want)
		})
	}
}

func TestTimestamps(t *testing.T) {
	in := newInlet(t, nil)
	sent := in.now
	for _, c := range []struct {
		seconds int
		want    string
	}{{299, ""}, {-299, ""}, {300, ""}, {-300, ""}, {301, "stale_timestamp"}, {-301, "stale_timestamp"}, {86400 * 365, "stale_timestamp"}} {
		t.Run(strconv.Itoa(c.seconds), func(t *testing.T) {
			in.t, in.now = t, sent
			d := in.signed(goldenBody)
			in.now = sent.Add(time.Duration(c.seconds) * time.Second)
			in.want(d, c.want)
		})
	}
	// The signature comes first: a stale forgery is a forgery. [contracts F]
	in.t, in.now = t, sent
	d := in.signed(goldenBody)
	d.Signature, in.now = []string{"v1=" + strings.Repeat("0", 64)}, sent.Add(time.Hour)
	in.want(d, "invalid_signature")
	// And the timestamp before the JSON.
	in.now = sent
	d = in.signed("no JSON")
	in.now = sent.Add(time.Hour)
	in.want(d, "stale_timestamp")
}

func event(id, more string) string {
	return `{"event_id":"` + id + `","device_id":"` + goldenDevice + `","type":"motion","occurred_at":"2026-01-15T09:59:58Z"` + more + `}`
}

func TestBadPayloads(t *testing.T) {
	in := newInlet(t, nil)
	for _, body := range []string{
		``, ` `, `null`, `5`, `"x"`, `[]`, `{`, `{}`, `{} x`, `{}{}`, "{\"event_id\":\"\xff\"}", `{"events":{}}`, `{"events":[]}`, `{"events":null}`, `{"events":"x"}`,
		`{"events":[` + strings.Repeat(`{},`, 100) + `{}]}`,
		`{"type":"motion","occurred_at":"2026-01-15T09:59:58Z"}`, `{"device_id":"` + goldenDevice + `","occurred_at":"2026-01-15T09:59:58Z"}`, `{"device_id":"` + goldenDevice + `","type":"motion"}`,
		strings.Replace(event("e", ""), goldenDevice, strings.ToUpper(goldenDevice), 1), strings.Replace(event("e", ""), goldenDevice, goldenDevice[1:], 1), strings.Replace(event("e", ""), `"`+goldenDevice+`"`, `5`, 1),
		strings.Replace(event("e", ""), `"motion"`, `""`, 1), strings.Replace(event("e", ""), `"motion"`, `"a b"`, 1), strings.Replace(event("e", ""), `"motion"`, `"-x"`, 1), strings.Replace(event("e", ""), `"motion"`, `["motion"]`, 1),
		strings.Replace(event("e", ""), `motion`, strings.Repeat("x", 65), 1), strings.Replace(event("e", ""), `motion`, `config.status`, 1), strings.Replace(event("e", ""), `motion`, `payload.rejected`, 1), strings.Replace(event("e", ""), `motion`, `telemetry`, 1),
		strings.Replace(event("e", ""), `2026-01-15T09:59:58Z`, `yesterday`, 1), strings.Replace(event("e", ""), `2026-01-15T09:59:58Z`, `2026-01-17T09:59:58Z`, 1), strings.Replace(event("e", ""), `2026-01-15`, `1999-01-15`, 1), strings.Replace(event("e", ""), `"2026-01-15T09:59:58Z"`, `1768471198`, 1),
		event(strings.Repeat("x", 65), ""), event("a b", ""), event(`\u0000`, ""), event("é", ""), event("", ""), strings.Replace(event("e", ""), `"e"`, `7`, 1),
		event("e", `,"data":[]`), event("e", `,"data":"x"`), event("e", `,"data":5`), event("e", `,"data":{"a":1,"a":2}`), event("e", `,"type":"door"`), event("e", `,"data":{"a":1e}`), event("e", `,"data":{"a":NaN}`),
		event("e", `,"data":`+strings.Repeat(`{"a":`, 40)+`1`+strings.Repeat(`}`, 40)), `{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	} {
		d := in.signed(body)
		_, err := in.Ingest(t.Context(), d)
		if code(err) != "invalid_payload" {
			t.Errorf("%.80s: %v", body, err)
		}
	}
	if n := len(in.events()); n != 0 {
		t.Errorf("%d events", n)
	}
	for _, body := range []string{
		event("a", `,"unknown":[1],"Data":5`), event("b", `,"data":null`), event("c", `,"data":{}`), event("d", `,"data":{"n":1e400,"big":123456789012345678901234567890,"s":"\u0000é\ud83d\ude00"}`),
		strings.Replace(event("e", ""), `"e"`, `null`, 1), strings.Replace(event("f", ""), `59:58Z`, `59:58.123456789+02:00`, 1), strings.Replace(event("g", ""), `motion`, `Person.detected:2-b_c`, 1),
		event("h", `,"data":{"long":"`+strings.Repeat("x", 60000)+`"}`), event(strings.Repeat("x", 64), ""),
	} {
		if got, err := in.Ingest(t.Context(), in.signed(body)); err != nil || got.Accepted != 1 {
			t.Errorf("%.80s: %+v, %v", body, got, err)
		}
	}
	if n := len(in.events()); n != 9 {
		t.Errorf("%d events", n)
	}
}

func TestDuplicates(t *testing.T) {
	in := newInlet(t, nil)
	unnamed := strings.Replace(event("x", `,"data":{"b":[1,2.50],"a":"ü"}`), `"event_id":"x",`, "", 1)
	for _, c := range []struct {
		body, want           string
		accepted, duplicates int
	}{
		{event("e1", `,"data":{"a":1}`), "", 1, 0},
		{event("e1", `,"data":{"a":1}`), "", 0, 1},
		{event("e1", `,"data":{ "a" : 1 } , "more":true`), "", 0, 1}, // spelled otherwise
		{`{"events":[` + event("e1", `,"data":{"a":1}`) + `]}`, "", 0, 1},
		{event("e1", `,"data":{"a":2}`), "event_id_conflict", 0, 0},
		{event("e1", ``), "event_id_conflict", 0, 0},
		{strings.Replace(event("e1", `,"data":{"a":1}`), "motion", "door", 1), "event_id_conflict", 0, 0},
		{strings.Replace(event("e1", `,"data":{"a":1}`), "09:59:58", "09:59:57", 1), "event_id_conflict", 0, 0},
		{strings.Replace(event("e1", `,"data":{"a":1}`), "09:59:58Z", "11:59:58+02:00", 1), "", 0, 1}, // the same instant
		{event("e2", `,"data":{"a":1}`), "", 1, 0},
		{unnamed, "", 1, 0},
		{unnamed, "", 0, 1},
		{strings.Replace(unnamed, `{"b":[1,2.50],"a":"ü"}`, `{"a":"\u00fc", "b":[1,2.50]}`, 1), "", 0, 1},
		{strings.Replace(unnamed, `[1,2.50]`, `[2.50,1]`, 1), "", 1, 0},
		{strings.Replace(unnamed, `"device_id"`, `"event_id":null,"device_id"`, 1), "", 0, 1},
		{strings.Replace(event("e3", ""), goldenDevice, strings.Repeat("0", 32), 1), "device_not_found", 0, 0},
	} {
		got := in.want(in.signed(c.body), c.want)
		if got.Accepted != c.accepted || got.Duplicates != c.duplicates {
			t.Errorf("%s: %+v", c.body, got)
		}
	}
	if n := len(in.events()); n != 4 {
		t.Errorf("%d events", n)
	}
	// Another key of the same sender repeats what the first has sent.
	d := in.signed(event("e1", `,"data":{"a":1}`))
	d.KeyID, d.Signature = []string{"k2"}, []string{"v1=" + nextKey.Sign(d.Timestamp[0], "POST", ingestPath, d.Body)}
	if got := in.want(d, ""); got.Duplicates != 1 {
		t.Errorf("%+v", got)
	}
	// It is known for as long as it is remembered, and 48 hours at least.
	in.now = in.now.Add(47 * time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in.Run(ctx)
	if got := in.want(in.signed(event("e1", `,"data":{"a":1}`)), ""); got.Duplicates != 1 {
		t.Errorf("%+v", got)
	}
}

func TestBatches(t *testing.T) {
	var told []*registry.Change
	in := newInlet(t, func(o *media.IngestOptions) { o.Tell = func(c *registry.Change) { told = append(told, c) } })
	in.want(in.signed(event("old", "")), "")
	told = nil
	body := `{"events":[` + strings.Join([]string{
		event("a", ""), event("old", ""), strings.Replace(event("b", ""), goldenDevice, strings.Repeat("0", 32), 1), `5`, event("old", `,"data":{"x":1}`), event("c", `,"data":7`), event("a", ""), event("d", ""),
	}, ",") + `]}`
	got := in.want(in.signed(body), "")
	if got.Accepted != 2 || got.Duplicates != 2 || len(told) != 2 {
		t.Errorf("%+v, told %d", got, len(told))
	}
	var rejected []string
	for _, r := range got.Rejected {
		rejected = append(rejected, fmt.Sprintf("%d %s %s", r.Index, r.EventID, r.Err.Code))
	}
	if s := strings.Join(rejected, "; "); s != "2 b device_not_found; 3  invalid_payload; 4 old event_id_conflict; 5 c invalid_payload" {
		t.Error(s)
	}
	full := make([]string, 100)
	for i := range full {
		full[i] = event(fmt.Sprint("full-", i), "")
	}
	if got := in.want(in.signed(`{"events":[`+strings.Join(full, ",")+`]}`), ""); got.Accepted != 100 {
		t.Errorf("%+v", got)
	}
}

// Refusals are audited, once for each key, reason and minute, without the secret.
func TestRefusalsAreAuditedOnceAMinute(t *testing.T) {
	in := newInlet(t, nil)
	forged := func(key string) {
		d := in.signed(goldenBody)
		d.KeyID, d.Signature = []string{key}, []string{"v1=" + strings.Repeat("AB", 32)}
		in.want(d, "invalid_signature")
	}
	for i := range 50 {
		forged("k1")
		forged(fmt.Sprint("made-up-", i))
	}
	if n := len(in.trail("ingest_refused")); n != 2 {
		t.Fatalf("%d rows", n)
	}
	// Another node knows nothing of this one's memory, and writes none either.
	other := media.NewIngestor(in.db.Ingest(), media.IngestOptions{Keys: []media.IngestKey{ingestKey}, Now: func() time.Time { return in.now }, NextID: registry.NewIDSource(time.Now)})
	d := in.signed(goldenBody)
	d.Signature = []string{"v1=00"}
	if _, err := other.Ingest(t.Context(), d); code(err) != "invalid_signature" {
		t.Fatal(err)
	}
	if n := len(in.trail("ingest_refused")); n != 2 {
		t.Fatalf("%d rows", n)
	}
	in.now = in.now.Add(time.Minute)
	forged("k1")
	in.want(in.signed(`{}`), "invalid_payload")
	in.want(in.signed(strings.Replace(goldenBody, goldenDevice, strings.Repeat("0", 32), 1)), "device_not_found")
	in.want(in.signed(goldenBody), "")
	for range 5 {
		in.want(in.signed(goldenBody), "")
	}
	rows := in.trail("ingest_refused")
	if len(rows) != 5 {
		t.Fatalf("%d rows", len(rows))
	}
	if r := rows[0]; r.DeviceID != strings.Repeat("0", 32) || r.Actor != "ingest:k1" || r.IP != "203.0.113.9" || r.RequestID != "req-9" || r.Data["reason"] != "device_not_found" || r.Data["key_id"] != "k1" {
		t.Errorf("%+v", r)
	}
	if r := rows[2]; r.Data["reason"] != "invalid_signature" || r.Data["signature"] != "ABABABAB" {
		t.Errorf("%+v", r)
	}
	if r := rows[4]; r.Actor != "ingest:k1" && r.Actor != "ingest:unknown" {
		t.Errorf("%+v", r)
	}
	if rows := in.trail("ingest_duplicate"); len(rows) != 1 || rows[0].DeviceID != goldenDevice || rows[0].Data["reason"] != "duplicate" {
		t.Errorf("%+v", rows)
	}
	if c := in.Counters(); c.Accepted.Load() != 1 || c.Duplicates.Load() != 5 || c.Refused.Load() != 103 {
		t.Errorf("%d accepted, %d duplicates, %d refused", c.Accepted.Load(), c.Duplicates.Load(), c.Refused.Load())
	}
	everything, err := json.Marshal([]any{in.trail(""), in.log.String(), fmt.Sprintf("%v %+v %#v %s", ingestKey, ingestKey, ingestKey, ingestKey)})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{string(ingestKey.Secret), hex.EncodeToString(ingestKey.Secret), strings.Trim(fmt.Sprint(ingestKey.Secret), "[]")} {
		if bytes.Contains(everything, []byte(secret)) {
			t.Errorf("the secret is in %s", everything)
		}
	}
}

func TestNothingConfigured(t *testing.T) {
	in := newInlet(t, func(o *media.IngestOptions) { o.Keys = nil })
	in.want(in.signed(goldenBody), "ingest_not_configured")
	in.want(media.Delivery{Body: make([]byte, media.MaxIngestBody+1)}, "ingest_not_configured")
}

// A limit is charged to who has signed, and to nobody else's account.
func TestLimitOfAKey(t *testing.T) {
	tokens := map[string]int{"k1": 2}
	in := newInlet(t, func(o *media.IngestOptions) {
		o.Limit = func(key string) time.Duration {
			if tokens[key]--; tokens[key] < 0 {
				return 3 * time.Second
			}
			return 0
		}
	})
	forged := in.signed(goldenBody)
	forged.Signature = []string{"v1=" + strings.Repeat("0", 64)}
	for range 5 {
		in.want(forged, "invalid_signature")
	}
	in.want(in.signed(goldenBody), "")
	in.want(in.signed(goldenBody), "")
	_, err := in.Ingest(t.Context(), in.signed(goldenBody))
	var e *registry.Error
	if !errors.As(err, &e) || e.Code != "RATE_LIMITED" || e.RetryAfter != 3*time.Second {
		t.Errorf("%v", err)
	}
}

// The newest events of a type stay.
func TestEventsAreBounded(t *testing.T) {
	in := newInlet(t, nil)
	for batch := range 11 {
		var all []string
		for i := range 100 {
			all = append(all, event(fmt.Sprintf("e-%d", batch*100+i), fmt.Sprintf(`,"data":{"n":%d}`, batch*100+i)))
		}
		in.want(in.signed(`{"events":[`+strings.Join(all, ",")+`]}`), "")
	}
	list := in.events()
	if len(list) != 1000 || list[0].Data != `{"n":1099}` || list[999].Data != `{"n":100}` {
		t.Errorf("%d events", len(list))
	}
	if got := in.want(in.signed(event("e-5", `,"data":{"n":5}`)), ""); got.Duplicates != 1 { // still known
		t.Errorf("%+v", got)
	}
}
