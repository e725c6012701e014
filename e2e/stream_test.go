package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

// liveEvent is one event of GET /api/events/stream.
type liveEvent struct {
	ID, Kind string
	Data     map[string]any
}

// deviceID is the device that it is about.
func (e liveEvent) deviceID() string {
	id, _ := e.Data["device_id"].(string)
	return id
}

// liveStream is an open event stream. A goroutine reads it until it ends.
type liveStream struct {
	t      *testing.T
	events chan liveEvent
	ended  chan struct{} // the server has ended it, or the test has cut it
	err    error         // how, once ended is closed; nil: in order
	last   string        // the id to resume with, of what was taken from events
	cut    func()        // as a network does
}

// stream opens a stream that must be let in; after is Last-Event-ID.
func (c *Cloud) stream(t *testing.T, token, query, after string) *liveStream {
	t.Helper()
	s, status := c.tryStream(t, token, query, after)
	if status != http.StatusOK {
		t.Fatalf("the stream is answered %d", status)
	}
	return s
}

func (c *Cloud) tryStream(t *testing.T, token, query, after string) (*liveStream, int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.API()+"/api/events/stream"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	transport := &http.Transport{} // of its own: to cut it is to close the connection
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	c.scan.watch(req, res)
	s := &liveStream{t: t, events: make(chan liveEvent, 10000), ended: make(chan struct{}), last: after}
	s.cut = func() {
		cancel()
		<-s.ended
	}
	go func() {
		defer close(s.ended)
		defer res.Body.Close()
		s.err = s.read(res.Body)
	}()
	t.Cleanup(s.cut)
	return s, res.StatusCode
}

func (s *liveStream) read(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	var e liveEvent
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			e.ID = value
		case "event":
			e.Kind = value
		case "data":
			if err := json.Unmarshal([]byte(value), &e.Data); err != nil {
				return err
			}
		case "":
			if lines.Text() == "" && (e.ID != "" || e.Kind != "") {
				s.events <- e
				e = liveEvent{}
			}
		}
	}
	return lines.Err()
}

// next is the next event; what only tells the place is taken on the way.
func (s *liveStream) next() liveEvent {
	s.t.Helper()
	for {
		select {
		case e := <-s.events:
			if e.ID != "" {
				s.last = e.ID
			}
			if e.Kind != "" {
				return e
			}
		case <-time.After(15 * time.Second):
			s.t.Fatal("no event comes")
		}
	}
}

// come takes the events that have come already.
func (s *liveStream) come() (events []liveEvent) {
	for {
		select {
		case e := <-s.events:
			if e.ID != "" {
				s.last = e.ID
			}
			if e.Kind != "" {
				events = append(events, e)
			}
		default:
			return events
		}
	}
}

// until takes events up to the first of a kind.
func (s *liveStream) until(kind string) liveEvent {
	s.t.Helper()
	for {
		if e := s.next(); e.Kind == kind {
			return e
		}
	}
}

// endsIn checks that the server ends the stream within a second of began, times the
// patience of a slow machine.
func (s *liveStream) endsIn(began time.Time) {
	s.t.Helper()
	select {
	case <-s.ended:
		if s.err != nil {
			s.t.Errorf("the stream does not end in order: %v", s.err)
		}
		s.t.Logf("it ended after %v", time.Since(began))
	case <-time.After(stretch*time.Second - time.Since(began)):
		s.t.Errorf("the stream lives %v later", time.Since(began))
	}
}

func TestEventStreamTellsWhatHappensToOnesDevices(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	mine, other := c.EnrollAs(admin), c.EnrollAs(admin)
	c.owned(t, admin, "somebody@example.com", other)
	user := c.UserToken("buyer@example.com")
	c.Sell(mine, user.Email)
	s, staff := c.stream(t, user.Token, "", ""), c.stream(t, admin, "?device_id="+mine.ID, "")
	if e := s.next(); e.Kind != "stream.snapshot" || len(e.Data["devices"].([]any)) != 0 {
		t.Fatalf("it begins with %+v", e)
	}
	if e := staff.next(); e.Kind != "stream.snapshot" || len(e.Data["devices"].([]any)) != 1 {
		t.Fatalf("staff begins with %+v", e)
	}
	foreign := c.open(t, deviceHello(other, mqttwire.V5))
	device := c.open(t, deviceHello(mine, mqttwire.V311))
	for n := range 3 { // before it is the buyer's
		if err := errors.Join(report(foreign, other, 1000+n), report(device, mine, 2000+n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := exchange(device, mine); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if err := errors.Join(report(foreign, other, 3000+n), report(device, mine, n)); err != nil {
			t.Fatal(err)
		}
	}
	if status := c.Do(http.MethodPatch, "/api/devices/"+mine.ID, user.Token, map[string]string{"name": "Hall"}, nil); status != http.StatusOK {
		t.Fatal(status)
	}
	if err := device.Disconnect(); err != nil {
		t.Fatal(err)
	}
	kinds, states := map[string]liveEvent{}, []float64{}
	for kinds["device.status"].Kind == "" {
		e := s.next()
		if e.deviceID() != mine.ID {
			t.Errorf("it hears of a foreign device: %+v", e)
		}
		if uptime, ok := e.Data["uptime_sec"].(float64); ok && e.Data["role"] == nil {
			states = append(states, uptime)
		}
		kinds[e.Kind] = e
	}
	if fmt.Sprint(states) != "[0 1 2]" {
		t.Errorf("the states are of uptime %v", states)
	}
	if d := kinds["device.claimed"].Data; d["role"] != "owner" || d["claimed_via"] != "purchase" {
		t.Errorf("the claim is %v", d)
	}
	if d := kinds["device.updated"].Data; d["name"] != "Hall" {
		t.Errorf("the rename is %v", d)
	}
	if d := kinds["device.status"].Data; d["status"] != "offline" || d["status_reason"] != "client_disconnect" {
		t.Errorf("the status is %v", d)
	}
	if d := staff.until("device.provisioned").Data; d["firmware_version"] == nil || d["device_id"] != mine.ID {
		t.Errorf("staff hears %v", d)
	}
}

func TestEventStreamResumesWithoutGapOrDuplicate(t *testing.T) {
	t.Parallel()
	const reports, cuts = 300, 8
	rng := seeded(t)
	c := Start(t, Options{})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	user := c.owned(t, admin, "owner@example.com", d)
	device := c.open(t, deviceHello(d, mqttwire.V311))
	s := c.stream(t, user.Token, "", "")
	s.until("device.state")

	failed := make(chan error, 1)
	go func() {
		for n := 1; n <= reports; n++ {
			if err := report(device, d, n); err != nil { // one at a time: none is laid over another
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	wanted, cutAt := 1, map[int]bool{}
	for range cuts {
		cutAt[1+rng.IntN(reports)] = true
	}
	for wanted <= reports {
		e := s.next()
		if e.Kind != "device.state" || e.Data["role"] != nil {
			if e.Kind == "stream.snapshot" {
				t.Fatalf("before report %d a snapshot", wanted)
			}
			continue
		}
		if got := int(e.Data["uptime_sec"].(float64)); got != wanted {
			t.Fatalf("report %d comes where %d should", got, wanted)
		}
		if cutAt[wanted] {
			s.cut()
			s = c.stream(t, user.Token, "", s.last)
		}
		wanted++
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	s.cut()
	if s = c.stream(t, user.Token, "", "1-1"); s.next().Kind != "stream.snapshot" {
		t.Error("an id of another life is resumed")
	}
	if e := s.next(); e.Data["uptime_sec"] != float64(reports) {
		t.Errorf("the snapshot has %v", e.Data)
	}
}

func TestEventStreamEndsWithAccess(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	owner := c.owned(t, admin, "owner@example.com", d)
	device := c.open(t, deviceHello(d, mqttwire.V311))
	n := 0
	tell := func(t *testing.T) {
		t.Helper()
		n++
		if err := report(device, d, n); err != nil {
			t.Fatal(err)
		}
	}
	hears := func(t *testing.T, s *liveStream) {
		t.Helper()
		tell(t)
		for e := s.next(); e.Data["uptime_sec"] != float64(n); e = s.next() {
			t.Logf("passing over %s", e.Kind)
		}
	}
	for name, end := range map[string]func(User) int{
		"disabled by staff":   func(u User) int { return c.Do(http.MethodPost, "/admin/users/"+u.ID+"/disable", admin, nil, nil) },
		"signed out by staff": func(u User) int { return c.Do(http.MethodPost, "/admin/users/"+u.ID+"/sign-out", admin, nil, nil) },
		"signing out":         func(u User) int { return c.Do(http.MethodDelete, "/api/auth/app-token", u.Token, nil, nil) },
		"erasing oneself":     func(u User) int { return c.Do(http.MethodDelete, "/api/me", u.Token, nil, nil) },
		"signing out (all)": func(u User) int {
			return c.Do(http.MethodPost, "/api/auth/logout", u.Token, map[string]bool{"all": true}, nil)
		},
	} {
		t.Run(name+" ends the stream", func(t *testing.T) {
			c := c.For(t)
			viewer := c.UserToken("viewer@example.com")
			c.share(t, d, viewer)
			s, owners := c.stream(t, viewer.Token, "", ""), c.stream(t, owner.Token, "", "")
			hears(t, s)
			began := time.Now()
			if status := end(viewer); status/100 != 2 {
				t.Fatalf("it answers %d", status)
			}
			s.endsIn(began)
			if _, status := c.tryStream(t, viewer.Token, "", s.last); status != http.StatusUnauthorized {
				t.Errorf("it comes back with %d", status)
			}
			hears(t, owners)
			owners.cut()
			// Whoever is still there is erased for the next round.
			c.Do(http.MethodDelete, "/admin/users/"+viewer.ID, admin, nil, nil)
		})
	}
	t.Run("a member of staff whose role changes", func(t *testing.T) {
		c := c.For(t)
		var member struct {
			ID    string `json:"admin_id"`
			Token string `json:"access_token"`
		}
		const password = "helpful-Granite-77"
		c.Post("/admin/staff", admin, map[string]string{"email": "helper@example.com", "password": password, "role": "support"}, &member)
		c.Post("/admin/auth/login", "", map[string]string{"email": "helper@example.com", "password": password}, &member)
		s := c.stream(t, member.Token, "?device_id="+d.ID, "")
		hears(t, s)
		began := time.Now()
		if status := c.Do(http.MethodPatch, "/admin/staff/"+member.ID, admin, map[string]string{"role": "admin"}, nil); status != http.StatusOK {
			t.Fatalf("it answers %d", status)
		}
		s.endsIn(began)
	})
	t.Run("a service account hears by its key until that is revoked", func(t *testing.T) {
		c := c.For(t)
		var account struct {
			ID string `json:"client_id"`
		}
		var key struct {
			ID   string `json:"key_id"`
			Text string `json:"api_key"`
		}
		c.Post("/admin/service-accounts", admin, map[string]any{"name": "watcher", "scopes": []string{"device:read"}}, &account)
		c.Post("/admin/service-accounts/"+account.ID+"/keys", admin, map[string]string{"name": "key"}, &key)
		if _, status := c.tryStream(t, key.Text, "", ""); status != http.StatusBadRequest {
			t.Errorf("without a device it is answered %d", status)
		}
		s := c.stream(t, key.Text, "?device_id="+d.ID, "")
		hears(t, s)
		began := time.Now()
		if status := c.Do(http.MethodDelete, "/admin/service-accounts/"+account.ID+"/keys/"+key.ID, admin, nil, nil); status != http.StatusOK {
			t.Fatalf("it answers %d", status)
		}
		s.endsIn(began)
	})
	t.Run("a device that is no longer shared falls silent, and the stream lives", func(t *testing.T) {
		c := c.For(t)
		own := c.EnrollAs(admin)
		viewer := c.owned(t, admin, "viewer2@example.com", own)
		c.share(t, d, viewer)
		s := c.stream(t, viewer.Token, "", "")
		hears(t, s)
		if status := c.Do(http.MethodDelete, "/api/devices/"+d.ID, viewer.Token, nil, nil); status != http.StatusOK {
			t.Fatalf("it answers %d", status)
		}
		for range 5 {
			tell(t)
		}
		// What comes next of the own device shows that nothing of the other came before.
		ownDevice := c.open(t, deviceHello(own, mqttwire.V5))
		if err := report(ownDevice, own, 5); err != nil {
			t.Fatal(err)
		}
		if e := s.next(); e.Kind != "device.released" || e.deviceID() != d.ID {
			t.Errorf("first comes %+v", e)
		}
		for e := s.next(); e.Data["uptime_sec"] != 5.0; e = s.next() {
			if e.deviceID() != own.ID {
				t.Errorf("after the release comes %+v", e)
			}
		}
		again := c.stream(t, viewer.Token, "", s.last)
		if err := report(ownDevice, own, 6); err != nil {
			t.Fatal(err)
		}
		if e := again.next(); e.deviceID() != own.ID || e.Data["uptime_sec"] != 6.0 {
			t.Errorf("resumed with %+v", e)
		}
	})
}

func TestEventStreamsDoNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{})
	user := c.UserToken("somebody@example.com")
	var all []*liveStream
	for range 10 {
		s := c.stream(t, user.Token, "", "")
		s.next()
		all = append(all, s)
	}
	if n := c.Metric("registry_event_streams"); n != 10 {
		t.Errorf("%v streams are counted", n)
	}
	began := time.Now()
	if code := c.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	for _, s := range all {
		s.endsIn(began)
	}
}

func TestEventStreamAfterACrashBeginsAnew(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Process: true})
	admin := c.AdminToken()
	d := c.EnrollAs(admin)
	user := c.owned(t, admin, "owner@example.com", d)
	s := c.stream(t, user.Token, "", "")
	s.until("device.state")
	device := c.open(t, deviceHello(d, mqttwire.V311))
	if err := report(device, d, 41); err != nil {
		t.Fatal(err)
	}
	for s.next().Data["uptime_sec"] != 41.0 {
	}
	if err := report(device, d, 42); err != nil { // acknowledged, and perhaps never streamed
		t.Fatal(err)
	}
	c.Kill()
	<-s.ended
	c.Restart()
	s = c.stream(t, user.Token, "", s.last)
	if e := s.next(); e.Kind != "stream.snapshot" || fmt.Sprint(e.Data["devices"]) != "["+d.ID+"]" {
		t.Fatalf("it begins with %+v", e)
	}
	if e := s.next(); e.Data["uptime_sec"] != 42.0 || e.Data["status"] != "unknown" {
		t.Errorf("the device is %v", e.Data)
	}
	device = c.open(t, deviceHello(d, mqttwire.V311))
	if err := report(device, d, 1); err != nil {
		t.Fatal(err)
	}
	if e := s.next(); e.Kind != "device.status" || e.Data["status"] != "online" {
		t.Errorf("then comes %+v", e)
	}
	if e := s.next(); e.Kind != "device.state" || e.Data["uptime_sec"] != 1.0 {
		t.Errorf("then comes %+v", e)
	}
}
