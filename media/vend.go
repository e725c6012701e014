package media

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// The limits of what a device is given. [contracts A.5]
const (
	loanLife     = time.Hour
	vendInterval = time.Minute
	vendsPerDay  = 40
	vendDay      = 24 * time.Hour
	maxRequestID = 64
)

// VendTx counts what devices were given.
type VendTx interface {
	// TakeVend records that a device is given credentials, unless it was since minute,
	// or most times since day: then wait says how long it has to.
	TakeVend(ctx context.Context, no, deviceNo int64, at, minute, day time.Time, most int) (wait time.Duration, err error)
	// DeleteVend takes a record back.
	DeleteVend(ctx context.Context, no int64) error
	// DeleteVends removes at most limit records from before a time; it returns how many.
	DeleteVends(ctx context.Context, before time.Time, limit int) (int, error)
}

// The purposes for which a device asks for credentials.
const (
	PurposeStream = "stream" // to send video to its stream
	PurposeWebRTC = "webrtc" // to be watched over its channel
)

// VendRequest is a device's request for credentials.
type VendRequest struct {
	RequestID string `json:"request_id"` // 1 to 64 printable ASCII characters
	Purpose   string `json:"purpose"`
}

// ParseVendRequest reads kvs/credentials/request. Errors: Invalid.
func ParseVendRequest(payload []byte) (r VendRequest, err error) {
	if json.Unmarshal(payload, &r) != nil {
		return r, badRequest("The payload is not the JSON object that it must be.")
	}
	return r, r.check()
}

func (r VendRequest) check() error {
	switch {
	case !validRequestID(r.RequestID):
		return badRequest("request_id must be 1 to 64 printable ASCII characters.")
	case r.Purpose != PurposeStream && r.Purpose != PurposeWebRTC:
		return badRequest("purpose must be stream or webrtc.")
	}
	return nil
}

func badRequest(message string) error {
	return registry.E(registry.Invalid, registry.ErrBadPayload.Code, message)
}

func validRequestID(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxRequestID
}

// Lent is what a device gets.
type Lent struct {
	RequestID string
	Region    string
	Video     Video
	Loan      Loan
}

// lentBody is Lent on the wire, over MQTT and over HTTPS alike. The inner names are those
// that AWS's own SDKs for devices read. [contracts A.5]
type lentBody struct {
	RequestID   string      `json:"request_id"`
	Status      string      `json:"status"`
	Region      string      `json:"region"`
	StreamName  string      `json:"stream_name,omitempty"`
	ChannelName string      `json:"channel_name,omitempty"`
	ChannelARN  string      `json:"channel_arn,omitempty"`
	Credentials credentials `json:"credentials"`
}

type credentials struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
	SessionToken    string `json:"sessionToken"`
	Expiration      string `json:"expiration"`
}

// Wire is the answer as the device gets it. It holds secrets.
func (l Lent) Wire() ([]byte, error) {
	k := l.Loan.Keys
	return json.Marshal(lentBody{
		RequestID: l.RequestID, Status: "ok", Region: l.Region, StreamName: l.Video.Stream(), ChannelName: l.Video.Channel(), ChannelARN: l.Loan.ChannelARN,
		Credentials: credentials{k.AccessKeyID.Reveal(), k.SecretAccessKey.Reveal(), k.SessionToken.Reveal(), k.Expires.UTC().Format(time.RFC3339)},
	})
}

// The errors of what a device asks for, beside those of people.
var (
	ErrTooOften = registry.E(registry.RateLimited, "rate_limited", "The device has asked for credentials too often.")
	ErrTooLarge = registry.E(registry.TooLarge, "payload_too_large", "The answer is larger than the device takes.")
)

// Lend gives a device credentials of its own stream and channel, for an hour. Who asks
// is the device of the session, never of the payload. The same request again within a
// minute gets the same answer, from memory; another one is [ErrTooOften], as is the 41st
// of a day. room is the longest answer that the device takes, in bytes, 0 for any; when it
// is too short nothing is charged and nothing given: [ErrTooLarge].
//
// Errors: those, ErrDeviceNotFound, ErrEntitlementRequired, [ErrNotProvisioned],
// ErrFeatureDisabled, those of [Cloud].
func (s *Service) Lend(ctx context.Context, a registry.Actor, r VendRequest, room int) (Lent, error) {
	if err := r.check(); err != nil {
		return Lent{}, err
	}
	now := s.now()
	if again, ok := s.lent.get(a.ID, r, now); ok {
		return again, fits(again, room)
	}
	no := s.opts.NextID()
	out := Lent{RequestID: r.RequestID}
	err := s.store.InTx(ctx, func(tx Tx) error {
		d, v, err := s.lendable(ctx, tx, a.ID, r.Purpose)
		if err != nil {
			return err
		}
		if room > 0 && room < smallest {
			return ErrTooLarge // without asking AWS first
		}
		out.Video = v
		wait, err := tx.TakeVend(ctx, no, d.No, now, now.Add(-vendInterval), now.Add(-vendDay), vendsPerDay)
		if err == nil && wait > 0 {
			late := *ErrTooOften
			late.RetryAfter = wait
			return &late
		}
		return err
	})
	if err != nil {
		return Lent{}, err
	}
	out.Region = s.opts.Cloud.Region()
	h := Holder{DeviceID: a.ID}
	out.Loan, err = s.opts.Cloud.Lend(ctx, h, out.Video, loanLife)
	if err == nil {
		err = fits(out, room)
	}
	if err == nil {
		err = s.store.InTx(ctx, func(tx Tx) error {
			if _, _, err := s.lendable(ctx, tx, a.ID, r.Purpose); err != nil {
				return err
			}
			return s.audit(ctx, tx, a, a.ID, "video_credentials_lent", map[string]any{
				"purpose": r.Purpose, "session": h.SessionName(), "expires_at": out.Loan.Keys.Expires.UTC().Format(time.RFC3339),
			})
		})
	}
	if err != nil {
		// The device has nothing, so that it may ask again at once.
		undo := s.store.InTx(context.WithoutCancel(ctx), func(tx Tx) error { return tx.DeleteVend(ctx, no) })
		return Lent{}, errors.Join(err, undo)
	}
	s.lent.put(a.ID, r, out, now)
	return out, nil
}

// smallest is less than any answer with credentials in it, in bytes: the keys alone are
// longer.
const smallest = 256

// fits refuses an answer that is longer than the device takes.
func fits(l Lent, room int) error {
	if room <= 0 {
		return nil
	}
	text, err := l.Wire()
	if err == nil && len(text) > room {
		err = ErrTooLarge
	}
	return err
}

// lendable is the gate of devices. What is not configured at all comes first: a device asks
// by itself, and has nothing to be told before.
func (s *Service) lendable(ctx context.Context, tx Tx, deviceID, purpose string) (d registry.Device, v Video, err error) {
	if !s.offers(DeviceVending) {
		return d, v, registry.ErrFeatureDisabled
	}
	if d, err = tx.Device(ctx, deviceID); err != nil {
		return d, v, err
	}
	if !d.DisabledAt.IsZero() {
		return d, v, registry.ErrDeviceNotFound
	}
	services := []registry.Capability{registry.CanLiveView}
	if purpose == PurposeStream {
		services = registry.Services() // every one of them lives of the stream
	}
	entitled := false
	for _, c := range services {
		if entitled, err = tx.Entitled(ctx, d.No, c, s.now()); err != nil || entitled {
			break
		}
	}
	switch {
	case err != nil:
		return d, v, err
	case !entitled:
		return d, v, registry.ErrEntitlementRequired
	}
	if v, err = tx.Video(ctx, d.No); err != nil {
		return d, v, err
	}
	of := Playback
	if purpose == PurposeWebRTC {
		of = Viewing
	}
	if !v.has(of) {
		return d, v, ErrNotProvisioned
	}
	return d, v, nil
}

// answers remembers for a minute what devices were given, so that a repeated request gets
// the same. It is memory alone, and of this node.
type answers struct {
	mu   sync.Mutex
	last map[string]answer // by device
}

type answer struct {
	request VendRequest
	lent    Lent
	until   time.Time
}

func (m *answers) get(deviceID string, r VendRequest, now time.Time) (Lent, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.last[deviceID]
	return a.lent, ok && a.request == r && now.Before(a.until)
}

func (m *answers) put(deviceID string, r VendRequest, l Lent, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == nil {
		m.last = map[string]answer{}
	}
	m.last[deviceID] = answer{r, l, now.Add(vendInterval)}
}

// sweep forgets what is older than a minute.
func (m *answers) sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, a := range m.last {
		if !now.Before(a.until) {
			delete(m.last, id)
		}
	}
}

// refusedBody is a refusal on the wire.
type refusedBody struct {
	RequestID     string `json:"request_id"`
	Status        string `json:"status"`
	Error         string `json:"error"`
	RetryAfterSec int    `json:"retry_after_sec,omitempty"`
}

// Refusal is the answer to a device's request that was refused, and fits 256 bytes.
// internal says that the cause is for the log. [contracts A.5]
func Refusal(requestID string, err error) (payload []byte, internal bool) {
	b := refusedBody{RequestID: requestID, Status: "error"}
	var e *registry.Error
	known := errors.As(err, &e)
	switch {
	case errors.Is(err, registry.ErrFeatureDisabled), errors.Is(err, registry.ErrEntitlementRequired), errors.Is(err, ErrTooLarge):
		b.Error = e.Code
	case errors.Is(err, ErrNotProvisioned), errors.Is(err, registry.ErrDeviceNotFound):
		b.Error = "not_provisioned"
	case known && e.Kind == registry.RateLimited:
		b.Error = ErrTooOften.Code
	default:
		b.Error, b.RetryAfterSec, internal = ErrUnavailable.Code, 60, true
	}
	if known && e.RetryAfter > 0 {
		b.RetryAfterSec = int(math.Ceil(e.RetryAfter.Seconds()))
	}
	// Without the escapes of HTML, which would make a request id six times as long.
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(b) != nil {
		internal = true // strings always marshal
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), internal
}

// IoT is how a device with a certificate of AWS IoT gets credentials there by itself.
type IoT struct {
	Endpoint  string // host of the credentials provider; "": none
	RoleAlias string
}

// coordinates is the answer to kvs/config/request. [contracts A.5]
type coordinates struct {
	RequestID   string `json:"request_id"`
	Status      string `json:"status"`
	Mode        string `json:"mode"`
	Endpoint    string `json:"endpoint"`
	RoleAlias   string `json:"role_alias"`
	ThingName   string `json:"thing_name"`
	Region      string `json:"region"`
	StreamName  string `json:"stream_name,omitempty"`
	ChannelName string `json:"channel_name,omitempty"`
}

// ParseConfigRequest reads kvs/config/request. Errors: Invalid.
func ParseConfigRequest(payload []byte) (requestID string, err error) {
	var r struct {
		RequestID string `json:"request_id"`
	}
	if json.Unmarshal(payload, &r) != nil {
		return "", badRequest("The payload is not the JSON object that it must be.")
	}
	if !validRequestID(r.RequestID) {
		return "", badRequest("request_id must be 1 to 64 printable ASCII characters.")
	}
	return r.RequestID, nil
}

// Coordinates tells a device where AWS IoT gives it credentials, and for what. There is
// nothing secret in it. Errors: ErrDeviceNotFound, [ErrNotProvisioned],
// ErrFeatureDisabled.
func (s *Service) Coordinates(ctx context.Context, deviceID, requestID string) ([]byte, error) {
	if s.opts.Cloud == nil || s.opts.IoT.Endpoint == "" {
		return nil, registry.ErrFeatureDisabled
	}
	var v Video
	err := s.store.View(ctx, func(tx Tx) error {
		d, err := tx.Device(ctx, deviceID)
		if err == nil {
			v, err = tx.Video(ctx, d.No)
		}
		return err
	})
	thing := v.ThingName
	if thing == "" { // the policy of the role names the stream by the thing
		thing = v.Stream()
	}
	switch {
	case err != nil:
		return nil, err
	case thing == "":
		return nil, ErrNotProvisioned
	}
	return json.Marshal(coordinates{
		RequestID: requestID, Status: "ok", Mode: "iot_credentials", Endpoint: s.opts.IoT.Endpoint, RoleAlias: s.opts.IoT.RoleAlias,
		ThingName: thing, Region: s.opts.Cloud.Region(), StreamName: v.Stream(), ChannelName: v.Channel(),
	})
}
