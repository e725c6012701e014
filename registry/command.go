package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// CommandStatus is how far a command has come. [contracts G.2]
type CommandStatus string

// The states of a command, in the order of its life. The last six are final.
const (
	CommandQueued     CommandStatus = "queued"
	CommandSent       CommandStatus = "sent"      // handed to the device's session
	CommandDelivered  CommandStatus = "delivered" // acknowledged: the device has it
	CommandInProgress CommandStatus = "in_progress"
	CommandSucceeded  CommandStatus = "succeeded"
	CommandFailed     CommandStatus = "failed"
	CommandRejected   CommandStatus = "rejected"
	CommandTimedOut   CommandStatus = "timed_out" // it was sent, and nobody knows
	CommandExpired    CommandStatus = "expired"   // it was never sent
	CommandCancelled  CommandStatus = "cancelled"
)

// Final reports whether nothing follows.
func (s CommandStatus) Final() bool {
	switch s {
	case CommandQueued, CommandSent, CommandDelivered, CommandInProgress:
		return false
	}
	return true
}

// The codes of commands that did not come to a good end; a device has codes of its own.
const (
	CodeUnsupported = "UNSUPPORTED_COMMAND" // the device's, for a type that its firmware does not know

	codeSuperseded = "superseded"       // a newer command of the type took its place
	codeOffline    = "device_offline"   // it is not queued, and the device has gone
	codeAccessLost = "access_lost"      // its issuer may not send it any more
	codeTooLarge   = "too_large"        // for the device
	codeNoReceipt  = "not_acknowledged" // the device never confirmed that it has it
	codeNoAnswer   = "no_answer"        // the device has it, and never said what became of it
	codeExpired    = "expired"
	codeByRequest  = "cancelled"
)

// Command is one command to a device.
type Command struct {
	No        int64
	ID        string
	DeviceNo  int64
	DeviceID  string
	Issuer    string // Actor.String
	RequestID string // the issuer's name for it
	BodyHash  []byte // SHA-256 of what was asked for
	Type      string
	Params    string // a JSON object, as it goes to the device
	Queueable bool   // it may wait for the device to connect
	Status    CommandStatus
	Code      string // why it failed: ours in lower case, or the device's
	Message   string
	Result    string // JSON, the device's
	Attempt   int    // how often it was handed to a session
	Epoch     int64  // of the connection that it was handed to last
	Firmware  string // version that answered

	IssuedAt    time.Time
	SentAt      time.Time // last
	DeliveredAt time.Time
	FinishedAt  time.Time // zero unless Status is final
	ExpiresAt   time.Time // it is not handed to the device from then on
	DueAt       time.Time // when the timer of its status runs out
}

// CommandLimits are the rates of commands, of all nodes together. The zero value is
// no limit.
type CommandLimits struct {
	PerUser   Rate // of one issuer
	PerDevice Rate
	ByType    bool // also the rates of dangerous and frequent types, for each device
}

// Rate is a token bucket: one token each Interval, at most Burst at once. The zero
// value is no limit.
type Rate struct {
	Interval time.Duration
	Burst    int
}

// The limits of a command. [contracts G.2]
const (
	maxCommandRequestID = 64
	maxCommandParams    = LargestPacket - packetReserve - envelopeReserve // bytes; of most devices 512
	maxCommandTTL       = 7 * 24 * time.Hour
	maxDangerousTTL     = time.Minute
	maxQueuedCommands   = 20
	defaultCommandTTL   = time.Minute
	reauthWithin        = 5 * time.Minute
	acknowledgeWithin   = 10 * time.Second
	// maxLiveAttempts bounds how often a command is sent over one connection.
	maxLiveAttempts = 3
)

// The errors of commands.
var (
	ErrCommandNotFound = E(NotFound, "command_not_found", "There is no such command.")
	ErrInvalidCommand  = E(Invalid, "invalid_command", "The command is not valid.")
	ErrInvalidParams   = E(Invalid, "invalid_params", "The parameters are not valid.")
	ErrRequestConflict = E(Conflict, "request_id_conflict", "This requestId was used for another command.")
	ErrAlreadySent     = E(Conflict, "already_sent", "The command has left the queue.")
	ErrQueueFull       = E(RateLimited, "queue_full", "Too many commands wait for this device.")
	ErrReauthenticate  = E(Forbidden, "reauthentication_required", "Sign in again: this command needs a sign-in of the last five minutes.")
	ErrUnsupported     = E(Unsupported, "unsupported_by_firmware", "The device has said that its firmware does not know this command.")
	ErrCommandTooLarge = E(TooLarge, "payload_too_large", "The command is larger than the device takes.")
	errTooManyCommands = E(RateLimited, "RATE_LIMITED", "Too many commands.")
)

// CommandRequest asks for a command.
type CommandRequest struct {
	RequestID string // the issuer's name for it, 1 to 64 printable ASCII characters
	Type      string
	Params    json.RawMessage // a JSON object of at most 512 bytes, more if the device takes larger packets; nil: {}
	TTL       *time.Duration  // how long it may wait; nil: a minute; 0: now or never
}

// order is a request that was judged.
type order struct {
	CommandRequest
	kind   commandType
	params string
	ttl    time.Duration
	hash   [sha256.Size]byte
}

// judge checks a request without looking at anything else.
func (req CommandRequest) judge() (o order, err error) {
	o = order{CommandRequest: req, kind: typeOf(req.Type), params: "{}", ttl: defaultCommandTTL}
	if req.RequestID == "" || req.Type == "" {
		return o, E(Invalid, "missing_fields", "requestId and type are required.")
	}
	if !validRequestID(req.RequestID) {
		return o, E(Invalid, ErrInvalidCommand.Code, "requestId must be 1 to 64 printable ASCII characters.")
	}
	if !topic.ValidCommandType(req.Type) {
		return o, E(Invalid, ErrInvalidCommand.Code, "type must be 1 to 32 lower-case letters, digits and hyphens.")
	}
	if req.TTL != nil {
		o.ttl = *req.TTL
	}
	longest := maxCommandTTL
	if o.kind.dangerous {
		longest = maxDangerousTTL
	}
	if o.ttl < 0 || o.ttl > longest {
		return o, E(Invalid, ErrInvalidCommand.Code, "ttlSec must be from 0 to "+strconv.Itoa(int(longest/time.Second))+".")
	}
	if len(req.Params) > 0 {
		if o.params, err = compactObject(req.Params); err != nil {
			return o, err
		}
	}
	if o.kind.check != nil {
		if err := o.kind.check([]byte(o.params)); err != nil {
			return o, E(Invalid, ErrInvalidParams.Code, messageOf(err))
		}
	}
	o.hash = sha256.Sum256([]byte(req.Type + "\x00" + strconv.FormatInt(int64(o.ttl/time.Second), 10) + "\x00" + o.params))
	return o, nil
}

func validRequestID(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxCommandRequestID
}

// compactObject is a JSON object without white space.
func compactObject(raw json.RawMessage) (string, error) {
	if len(raw) > maxPayload {
		return "", E(TooLarge, ErrCommandTooLarge.Code, "params are larger than "+strconv.Itoa(maxCommandParams)+" bytes.")
	}
	if err := eachMember(raw, func(_, _ []byte) error { return nil }); err != nil {
		return "", E(Invalid, ErrInvalidParams.Code, "params must be a JSON object, without repeated members.")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return "", ErrInvalidParams.With(err)
	}
	if b.Len() > maxCommandParams {
		return "", E(TooLarge, ErrCommandTooLarge.Code, "params are larger than "+strconv.Itoa(maxCommandParams)+" bytes.")
	}
	return b.String(), nil
}

// messageOf is the sentence of an error of the domain.
func messageOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "The value is not valid."
}

// now-or-never commands are not queued.
func (o order) queueable() bool { return !o.kind.dangerous && o.ttl > 0 }

// newCommandID makes a ULID: 48 bits of milliseconds and 80 random ones, in Crockford's
// base 32, so that ids sort by time.
func newCommandID(now time.Time) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	ms := now.UnixMilli()
	for i := 5; i >= 0; i-- {
		b[i] = byte(ms)
		ms >>= 8
	}
	const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	var text [26]byte
	bits, have, n := uint(0), 2, 0 // 130 bits of text for 128
	for _, x := range b {
		bits, have = bits<<8|uint(x), have+8
		for have >= 5 {
			have -= 5
			text[n] = digits[bits>>have&31]
			n++
		}
	}
	return string(text[:])
}

// commandPayload is what a device gets on command/{type}.
type commandPayload struct {
	CommandID string          `json:"command_id"`
	Type      string          `json:"type"`
	Params    json.RawMessage `json:"params"`
	IssuedAt  string          `json:"issued_at"`
	ExpiresAt string          `json:"expires_at"`
	Attempt   int             `json:"attempt"`
}

// Payload is the message to the device.
func (c Command) Payload() ([]byte, error) {
	const milliseconds = "2006-01-02T15:04:05.000Z"
	return json.Marshal(commandPayload{
		c.ID, c.Type, json.RawMessage(c.Params), c.IssuedAt.UTC().Format(milliseconds), c.ExpiresAt.UTC().Format(milliseconds), c.Attempt,
	})
}

// SendCommand sends a command to a device, or lets it wait for one that is not
// connected. What it returns is committed. duplicate says that the same request came
// before: then nothing is charged, and the command is returned as it is. It does not
// wait for the device; see [Registry.AwaitCommand].
//
// Errors, in this order: those of [Registry.Access] (for types that cannot be undone
// by CanEndanger), Invalid, TooLarge, ErrReauthenticate, ErrRequestConflict,
// ErrUnsupported, ErrOffline for what is not queued, RateLimited with Scope,
// ErrQueueFull, ErrUnavailable. Refusals of those who have a role on the device are
// audited. [contracts G.2]
func (r *Registry) SendCommand(ctx context.Context, a Actor, deviceID string, req CommandRequest) (c Command, duplicate bool, err error) {
	o, invalid := req.judge()
	if invalid != nil {
		if _, err := r.MayCommand(ctx, a, deviceID); err != nil {
			return Command{}, false, err
		}
		return Command{}, false, invalid
	}
	session, reserved := r.dispatch.reserve(deviceID)
	now := r.now()
	var superseded []Command
	err = r.change(ctx, func(tx Tx) (err error) {
		c, duplicate, superseded, err = r.placeCommand(ctx, tx, a, deviceID, o, session, reserved, now)
		return err
	}, func() (all []*Change) {
		for _, old := range superseded {
			all = append(all, commandChange(old, now))
		}
		if !duplicate {
			all = append(all, commandChange(c, now))
		}
		return all
	})
	if err != nil || duplicate {
		r.dispatch.release(deviceID, reserved)
		if err != nil {
			r.auditDenial(a, deviceID, o.Type, o.RequestID, err)
			return Command{}, false, err
		}
		return c, true, nil
	}
	r.dispatch.finished(superseded...)
	if c.Status != CommandSent {
		r.dispatch.release(deviceID, reserved)
		r.dispatch.wake(deviceID)
		return c, false, nil
	}
	c, err = r.dispatch.handOver(ctx, session, c)
	r.dispatch.release(deviceID, reserved)
	if c.Status == CommandQueued {
		r.dispatch.wake(deviceID)
	}
	return c, false, err
}

// placeCommand does the work of SendCommand in its transaction.
func (r *Registry) placeCommand(ctx context.Context, tx Tx, a Actor, deviceID string, o order, s *Session, reserved bool, now time.Time) (c Command, again bool, superseded []Command, err error) {
	d, err := r.mayCommand(ctx, tx, a, deviceID, o, now)
	if err != nil {
		return Command{}, false, nil, err
	}
	issuer := a.String()
	if c, again, err := tx.CommandByRequest(ctx, d.No, issuer, o.RequestID); err != nil || again {
		return c, again, nil, o.sameAs(c, err)
	}
	if d.FirmwareVersion != "" {
		if unknown, err := tx.CommandUnsupported(ctx, d.No, o.Type, d.FirmwareVersion); err != nil {
			return Command{}, false, nil, err
		} else if unknown {
			return Command{}, false, nil, ErrUnsupported
		}
	}
	if !o.queueable() && s == nil {
		return Command{}, false, nil, ErrOffline
	}
	waiting, superseded, err := r.supersede(ctx, tx, d, o, now)
	if err != nil {
		return Command{}, false, nil, err
	}
	c = Command{
		No: r.opts.NextID(), ID: newCommandID(now), DeviceNo: d.No, DeviceID: deviceID, Issuer: issuer, RequestID: o.RequestID, BodyHash: o.hash[:],
		Type: o.Type, Params: o.params, Queueable: o.queueable(), Status: CommandQueued, IssuedAt: now, ExpiresAt: now.Add(o.ttl),
	}
	if o.ttl == 0 {
		c.ExpiresAt = now.Add(acknowledgeWithin)
	}
	c.DueAt = c.ExpiresAt
	// Only what is first in line goes straight to the device.
	if reserved && waiting == 0 && d.Presence.Epoch == s.Epoch {
		c.hand(s.Epoch, now)
	} else if waiting >= maxQueuedCommands && a.Kind != ActorSystem {
		return Command{}, false, nil, retryAfter(ErrQueueFull, "", defaultCommandTTL)
	}
	longest := c
	longest.Attempt = 99
	if payload, err := longest.Payload(); err != nil {
		return Command{}, false, nil, err
	} else if limit := d.PacketLimit(s) - packetReserve; len(payload) > limit || len(c.Params) > limit-envelopeReserve {
		return Command{}, false, nil, ErrCommandTooLarge
	}
	if a.Kind != ActorSystem {
		if err := r.chargeCommand(ctx, tx, issuer, deviceID, o, now); err != nil {
			return Command{}, false, nil, err
		}
	}
	created, err := tx.InsertCommand(ctx, c)
	if err != nil {
		return Command{}, false, nil, err
	}
	if !created { // another node was faster
		c, again, err := tx.CommandByRequest(ctx, d.No, issuer, o.RequestID)
		return c, again, nil, o.sameAs(c, err)
	}
	return c, false, superseded, r.audit(ctx, tx, a, deviceID, "command_issued", map[string]any{
		"commandId": c.ID, "requestId": c.RequestID, "issuedBy": issuer, "deviceId": deviceID, "type": c.Type,
		"params": json.RawMessage(c.Shown()), "status": string(c.Status), "node_id": r.opts.NodeID,
	})
}

// hand makes the command one that is being handed to a session.
func (c *Command) hand(epoch int64, now time.Time) {
	if c.Status == CommandQueued || c.Status == CommandSent {
		c.Status = CommandSent
		if c.DueAt = now.Add(acknowledgeWithin); c.DueAt.Before(c.ExpiresAt) {
			c.DueAt = c.ExpiresAt
		}
	}
	c.Attempt, c.Epoch, c.SentAt = c.Attempt+1, epoch, now
}

// sameAs refuses another request under a request id that was used.
func (o order) sameAs(c Command, err error) error {
	if err == nil && subtle.ConstantTimeCompare(c.BodyHash, o.hash[:]) == 0 {
		err = ErrRequestConflict
	}
	return err
}

// mayCommand is the gate of commands: the type's capability, and for those that cannot
// be undone a person who has just proved who they are.
func (r *Registry) mayCommand(ctx context.Context, tx Tx, a Actor, deviceID string, o order, now time.Time) (OwnedDevice, error) {
	if a.Kind == ActorSystem {
		device, err := tx.Device(ctx, deviceID)
		return OwnedDevice{Device: device}, err
	}
	capability := CanControl
	if o.kind.dangerous {
		capability = CanEndanger
	}
	d, err := r.access(ctx, tx, a, deviceID, capability)
	if err == nil && o.kind.dangerous && now.Sub(a.ProvedAt) > reauthWithin {
		err = ErrReauthenticate
	}
	return d, err
}

// MayCommand is Access for sending commands, before a body is looked at. A refusal of
// somebody who has a role on the device is audited.
func (r *Registry) MayCommand(ctx context.Context, a Actor, deviceID string) (OwnedDevice, error) {
	d, err := r.Access(ctx, a, deviceID, CanControl)
	if err != nil {
		r.auditDenial(a, deviceID, "", "", err)
	}
	return d, err
}

// supersede takes queued commands of the type out of the queue where only the newest
// counts, and says how many wait then.
func (r *Registry) supersede(ctx context.Context, tx Tx, d OwnedDevice, o order, now time.Time) (waiting int, ended []Command, err error) {
	open, err := tx.OpenCommands(ctx, d.No)
	if err != nil {
		return 0, nil, err
	}
	for _, c := range open {
		switch {
		case c.Status != CommandQueued:
		case o.kind.newestCounts && c.Type == o.Type:
			if err := r.endCommand(ctx, tx, System(), &c, CommandCancelled, codeSuperseded, now); err != nil {
				return 0, nil, err
			}
			ended = append(ended, c)
		default:
			waiting++
		}
	}
	return waiting, ended, nil
}

// chargeCommand takes a token of each limit: of the issuer, the device, and the type.
func (r *Registry) chargeCommand(ctx context.Context, tx Tx, issuer, deviceID string, o order, now time.Time) error {
	limits := []struct {
		scope, bucket string
		rate          Rate
	}{
		{"user", issuer, r.opts.Commands.PerUser},
		{"device", "device:" + deviceID, r.opts.Commands.PerDevice},
		{"type", "type:" + deviceID + ":" + o.Type, o.kind.rate},
	}
	if !r.opts.Commands.ByType {
		limits = limits[:2]
	}
	for _, l := range limits {
		if l.rate.Interval <= 0 {
			continue
		}
		wait, err := tx.TakeCommandToken(ctx, l.bucket, now, l.rate.Interval, l.rate.Burst)
		if err != nil {
			return err
		}
		if wait > 0 {
			return retryAfter(errTooManyCommands, l.scope, wait)
		}
	}
	return nil
}

func retryAfter(e *Error, scope string, wait time.Duration) *Error {
	limited := *e
	limited.Scope, limited.RetryAfter = scope, wait
	return &limited
}

// auditDenial records that somebody with a role on the device was refused a command.
// It does not wait, and is dropped when too much waits. A stranger leaves no trace on
// somebody else's device.
func (r *Registry) auditDenial(a Actor, deviceID, commandType, requestID string, cause error) {
	var e *Error
	if !errors.As(cause, &e) || e.Kind != Forbidden && e.Kind != RateLimited || r.ingest.overfull() {
		return
	}
	data := map[string]any{"error": e.Code, "issuedBy": a.String(), "node_id": r.opts.NodeID}
	if commandType != "" {
		data["type"], data["requestId"] = commandType, requestID
	}
	if e.Scope != "" {
		data["scope"] = e.Scope
	}
	work := &Work{Do: func(tx Tx) error { return r.audit(context.Background(), tx, a, deviceID, "command_denied", data) }}
	if _, err := r.ingest.add(func(b *Batch) { b.Work = append(b.Work, work) }); err != nil {
		r.log.Warn("a refusal was not recorded", "device_id", deviceID, "error", err)
	}
}

// endCommand writes a command's final state and its audit row. by is who ends it.
// ErrAlreadySent when it has moved on meanwhile.
func (r *Registry) endCommand(ctx context.Context, tx Tx, by Actor, c *Command, to CommandStatus, code string, now time.Time) error {
	from := c.Status
	c.Status, c.Code, c.FinishedAt, c.DueAt = to, code, now, now
	changed, err := tx.AdvanceCommand(ctx, *c, from)
	if err == nil && !changed {
		err = ErrAlreadySent
	}
	if err != nil {
		return err
	}
	data := map[string]any{
		"commandId": c.ID, "requestId": c.RequestID, "issuedBy": c.Issuer, "deviceId": c.DeviceID, "type": c.Type, "status": string(to),
		"duration_ms": now.Sub(c.IssuedAt).Milliseconds(), "attempts": c.Attempt, "node_id": r.opts.NodeID,
	}
	if code != "" {
		data["code"] = code
	}
	if err := r.emit(ctx, tx, EventCommandCompleted, c.DeviceID, now, c.completed()); err != nil {
		return err
	}
	return r.audit(ctx, tx, by, c.DeviceID, "command_finished", data)
}

// CancelCommand takes a command out of the queue. Doing it again changes nothing.
// Errors: those of Access, ErrCommandNotFound, ErrAlreadySent.
func (r *Registry) CancelCommand(ctx context.Context, a Actor, deviceID, commandID string) (c Command, err error) {
	now, again := r.now(), false
	err = r.change(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, deviceID, CanControl)
		if err != nil {
			return err
		}
		if c, err = tx.Command(ctx, d.No, commandID); err != nil {
			return err
		}
		switch again = c.Status == CommandCancelled; {
		case again:
			return nil
		case c.Status != CommandQueued:
			return ErrAlreadySent
		}
		return r.endCommand(ctx, tx, a, &c, CommandCancelled, codeByRequest, now)
	}, func() []*Change {
		if again {
			return nil
		}
		return []*Change{commandChange(c, now)}
	})
	if err != nil {
		return Command{}, err
	}
	r.dispatch.finished(c)
	return c, nil
}

// Command reads one command of a device. Errors: those of Access, ErrCommandNotFound.
func (r *Registry) Command(ctx context.Context, a Actor, deviceID, commandID string) (c Command, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, deviceID, CanControl)
		if err != nil {
			return err
		}
		c, err = tx.Command(ctx, d.No, commandID)
		return err
	})
	return c, err
}

// Commands lists a device's commands, newest first, before the command number given
// (0: from the newest).
func (r *Registry) Commands(ctx context.Context, a Actor, deviceID string, before int64, limit int) (list []Command, err error) {
	err = r.store.View(ctx, func(tx Tx) error {
		d, err := r.access(ctx, tx, a, deviceID, CanControl)
		if err != nil {
			return err
		}
		list, err = tx.Commands(ctx, d.No, before, limit)
		return err
	})
	return list, err
}

func commandChange(c Command, at time.Time) *Change {
	return &Change{Kind: ChangeCommand, DeviceID: c.DeviceID, At: at, Command: &c}
}
