package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

const (
	// streamEnd is what is left to a write when its stream must end.
	streamEnd = 500 * time.Millisecond
	// streamRetry is when a client comes back after its stream ended: spread, so that a
	// restart does not bring all of them at once.
	streamRetry, streamSpread = 2 * time.Second, 3 * time.Second
)

// eventSnapshot begins a snapshot: it lists the devices of which a device.state each
// follows, and nothing that a client knows of others is true any more.
const eventSnapshot = "stream.snapshot"

type snapshotEvent struct {
	At      time.Time `json:"at"`
	Devices []string  `json:"devices"`
}

// eventHead is what every event of a device begins with.
type eventHead struct {
	DeviceID string    `json:"device_id"`
	At       time.Time `json:"at"` // of the change
}

// wholeEvent is device.state of a snapshot: everything that the list and the state
// of a device hold.
type wholeEvent struct {
	At time.Time `json:"at"`
	ownedBody
	stateBody
}

// reportEvent is device.state of a report: what the device did not name is absent,
// and stays as it was.
type reportEvent struct {
	eventHead
	FirmwareVersion string    `json:"firmware_version"`
	LastSeen        time.Time `json:"last_seen"`
	ReportedAt      time.Time `json:"reported_at"`
	UptimeSec       *int64    `json:"uptime_sec,omitempty"`
	WifiRSSI        *int64    `json:"wifi_rssi,omitempty"`
	ConfigVersion   *int64    `json:"config_version,omitempty"`
	RadarConnected  *bool     `json:"radar_connected,omitempty"`
	ZoneCount       *int64    `json:"zone_count,omitempty"`
	ProtocolVersion *string   `json:"protocol_version,omitempty"`
}

type statusEvent struct {
	eventHead
	Online          bool       `json:"online"`
	Status          string     `json:"status"`
	StatusReason    *string    `json:"status_reason"`
	StatusChangedAt *time.Time `json:"status_changed_at"`
	LastSeen        *time.Time `json:"last_seen"`
}

type provisionedEvent struct {
	eventHead
	FirmwareVersion string    `json:"firmware_version"`
	ProvisionedAt   time.Time `json:"provisioned_at"`
}

type claimedEvent struct {
	eventHead
	Role       string    `json:"role"`
	ClaimedAt  time.Time `json:"claimed_at"`
	ClaimedVia string    `json:"claimed_via"`
}

// sharedEvent tells a person what a device is, or will be, to them.
type sharedEvent struct {
	eventHead
	Role     string     `json:"role"`
	StartsAt *time.Time `json:"starts_at"`
	EndsAt   *time.Time `json:"ends_at"`
}

type updatedEvent struct {
	eventHead
	Name      string    `json:"name"`
	UpdatedAt time.Time `json:"updated_at"`
}

// webhookEvent tells administrators that a webhook is called no more.
type webhookEvent struct {
	At        time.Time `json:"at"`
	WebhookID string    `json:"webhook_id"`
	Reason    string    `json:"reason"`
}

// purchaseFailedEvent tells administrators that the carrier refused what was paid.
type purchaseFailedEvent struct {
	eventHead
	PurchaseID string `json:"purchase_id"`
	Reason     string `json:"reason"`
}

// newEvent is the data of a change.
func newEvent(c *registry.Change) any {
	at := c.At.UTC()
	head := eventHead{c.DeviceID, at}
	switch c.Kind {
	case registry.ChangeState:
		s := c.State
		return reportEvent{head, s.FirmwareVersion, at, at, s.UptimeSec, s.WifiRSSI, s.ConfigVersion, s.RadarConnected, s.ZoneCount, s.ProtocolVersion}
	case registry.ChangeStatus:
		p := c.Presence
		return statusEvent{head, p.Status == registry.Online, p.Status.String(), text(p.Reason.String()), stamp(p.ChangedAt), stamp(p.LastSeen)}
	case registry.ChangeProvisioned:
		return provisionedEvent{head, c.Firmware, at}
	case registry.ChangeClaimed:
		return claimedEvent{head, string(registry.RoleOwner), at, c.ClaimedVia}
	case registry.ChangeShared:
		return sharedEvent{head, string(c.Share.Role), stamp(c.Share.StartsAt), stamp(c.Share.EndsAt)}
	case registry.ChangeUpdated:
		return updatedEvent{head, c.Name, at}
	case registry.ChangeSIM:
		return simEvent{head, c.SIM.Alert, text(c.SIM.Left), c.SIM.ICCID, c.SIM.Status}
	case registry.ChangeConfig:
		return configEvent{head, newConfigBody(*c.Config)}
	case registry.ChangeEvent:
		return deviceEvent{head, newEventBody(*c.Event)}
	case registry.ChangeOTA:
		return otaEvent{head, newOTABody(*c.OTA)}
	case registry.ChangeWebhookDisabled:
		return webhookEvent{at, c.Webhook.ID, c.Webhook.Reason}
	case registry.ChangePurchaseFailed:
		return purchaseFailedEvent{head, c.Purchase.ID, c.Purchase.Reason}
	case registry.ChangeCommand:
		return commandEvent{head, newCommandBody(*c.Command)}
	}
	return head
}

// namedDevices are the device_id parameters of a stream.
func (p params) namedDevices() ([]string, error) {
	for _, id := range p.Values["device_id"] {
		if !topic.ValidDeviceID(id) {
			return nil, registry.ErrDeviceNotFound
		}
	}
	return p.Values["device_id"], nil
}

// Why a stream ends, beside the client's own reasons.
var (
	errStreamRevoked = errors.New("the session has ended")
	errStreamExpired = errors.New("the token has expired")
	errStreamCut     = errors.New("the stream has ended")
)

// streamEvents serves Server-Sent Events until the client goes, the token or its
// session ends, or the client is too slow. [WHATWG HTML, server-sent events]
func (a *api) streamEvents(r *request) (answer, error) {
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	devices, err := q.namedDevices()
	if err != nil {
		return answer{}, err
	}
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	defer a.Accounts.Follow(r.actor, func() { end(errStreamRevoked) })()
	if expires := exchangeOf(r.Request).expires; !expires.IsZero() { // an API key has no end
		defer time.AfterFunc(expires.Sub(a.opts.Now()), func() { end(errStreamExpired) }).Stop()
	}
	l, err := a.Registry.Listen(ctx, r.actor, registry.ListenOptions{
		Devices: devices, After: r.Header.Get("Last-Event-ID"), Ended: func() { end(errStreamCut) },
	})
	if cause := context.Cause(ctx); cause == errStreamRevoked || cause == errStreamExpired {
		err = errors.Join(account.ErrInvalidToken.With(cause), err)
	}
	if err != nil {
		return answer{}, err
	}
	defer l.Close()
	defer a.metrics.stream()()

	s := newStream(r.w, a.opts.Patience)
	defer s.close()
	defer context.AfterFunc(ctx, s.cut)()
	if r.Method == http.MethodHead {
		return answered()
	}
	fmt.Fprintf(&s.buf, "retry: %d\n\n", (streamRetry + rand.N(streamSpread)).Milliseconds())
	beat := time.NewTicker(a.opts.Heartbeat)
	defer beat.Stop()
	for {
		if s.send() != nil {
			return answered() // the client has gone, or must
		}
		select {
		case <-ctx.Done():
			return answered()
		case <-l.Ready():
			u, err := l.Take(ctx)
			if err == nil && ctx.Err() == nil {
				err = s.update(l, u, a.opts.Now().UTC())
				a.metrics.streamed(u)
			}
			if err != nil {
				return answered() // the registry has logged what was its own
			}
		case <-beat.C:
			s.buf.WriteString(": heartbeat\n")
			s.place(l.Cursor())
		}
	}
}

// stream writes events to one client.
type stream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	patience time.Duration
	buf      bytes.Buffer // what send sends

	mu   sync.Mutex
	over bool
}

// newStream sends the headers of a stream.
func newStream(w http.ResponseWriter, patience time.Duration) *stream {
	s := &stream{w: w, rc: http.NewResponseController(w), patience: patience}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // proxies collect an answer otherwise
	w.WriteHeader(http.StatusOK)
	return s
}

// update writes what a listener has heard.
func (s *stream) update(l *registry.Listener, u registry.Update, now time.Time) error {
	var err error
	if u.Snapshot {
		err = s.event("", eventSnapshot, snapshotEvent{now, render(u.Devices, func(d registry.OwnedDevice) string { return d.ID })})
	}
	for _, d := range u.Devices {
		err = errors.Join(err, s.event("", string(registry.ChangeState), wholeEvent{now, newOwnedBody(d), newStateBody(d.Device)}))
	}
	for _, c := range u.Changes {
		err = errors.Join(err, s.event(l.CursorOf(c), string(c.Kind), newEvent(c)))
	}
	if len(u.Changes) == 0 {
		// What a snapshot was read at. Its own events have no id: whoever has heard a
		// part of it needs all of it again.
		s.place(l.Cursor())
	}
	return err
}

func (s *stream) event(id, kind string, data any) error {
	text, err := encode(data)
	if err != nil {
		return err
	}
	if id != "" {
		fmt.Fprintf(&s.buf, "id: %s\n", id)
	}
	fmt.Fprintf(&s.buf, "event: %s\ndata: %s\n\n", kind, text)
	return nil
}

// place tells the client where it is, without an event.
func (s *stream) place(id string) {
	if id != "" {
		fmt.Fprintf(&s.buf, "id: %s\n", id)
	}
	s.buf.WriteByte('\n')
}

// send writes what has been put together.
func (s *stream) send() error {
	if !s.limit(time.Now().Add(s.patience)) {
		return errStreamCut
	}
	_, err := s.w.Write(s.buf.Bytes())
	s.buf.Reset()
	if err == nil {
		err = s.rc.Flush()
	}
	s.limit(time.Time{}) // over HTTP/2, a limit that passes ends the stream though nothing is written
	return err
}

// limit bounds the writes from here on, unless cut has done so.
func (s *stream) limit(until time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		_ = s.rc.SetWriteDeadline(until) // fails on writers without a connection
	}
	return !s.over
}

// cut gives a write that is under way a moment to end, and allows no other.
func (s *stream) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		_ = s.rc.SetWriteDeadline(time.Now().Add(streamEnd))
	}
}

// close keeps cut from touching the connection after the request.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}
