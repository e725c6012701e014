package registry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Status is whether a device is connected, as the broker knows it.
type Status uint8

// The states of presence. Unknown: this node crashed or was lost, and the device
// has had no time yet to come back.
const (
	Offline Status = iota
	Online
	StatusUnknown
)

var statusNames = [...]string{"offline", "online", "unknown"}

// String is the name used in answers: "offline", "online", "unknown".
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "unknown"
}

// ParseStatus reads a name as String writes it.
func ParseStatus(name string) (Status, bool) {
	for i, n := range statusNames {
		if n == name {
			return Status(i), true
		}
	}
	return 0, false
}

// Reason is why a status changed. The numbers are stored.
type Reason uint8

// The reasons.
const (
	NoReason Reason = iota // never connected
	Connected
	ClientDisconnect
	KeepaliveTimeout
	Takeover
	NetworkError
	CredentialRevoked
	Kicked
	NodeShutdown
	NodeLost
	ProtocolError
	RateExceeded
	ServerError
)

var reasonNames = [...]string{
	"", "connected", "client_disconnect", "keepalive_timeout", "takeover", "network_error", "credential_revoked",
	"kicked", "node_shutdown", "node_lost", "protocol_error", "rate_exceeded", "server_error",
}

// String is the name used in answers and messages.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return ""
}

// Presence is the registry's word on one device's connection.
type Presence struct {
	Epoch        int64
	Status       Status
	Reason       Reason
	NodeID       string
	ConnectionID int64
	Remote       string
	Protocol     int       // 4 = MQTT 3.1.1, 5 = MQTT 5
	ConnectedAt  time.Time // of the latest connection
	ChangedAt    time.Time // of Status
	LastSeen     time.Time
}

// Connection is one row of a device's connection history.
type Connection struct {
	ID             int64
	Epoch          int64
	NodeID         string
	Remote         string
	Protocol       int
	ConnectedAt    time.Time
	DisconnectedAt time.Time // zero: it is live
	Reason         Reason
}

// Live is a device that a node believes to be connected to it.
type Live struct {
	DeviceNo int64
	DeviceID string
	Epoch    int64
}

// Session is one accepted connection of a device: the fence that every write on
// its behalf carries. It belongs to one connection, and is immutable but for what
// the registry caches in it.
type Session struct {
	DeviceNo     int64
	DeviceID     string
	Epoch        int64
	ConnectionID int64
	CredentialID int64     // 0: a certificate of the device CA
	ExpiresAt    time.Time // of the credential; zero: never
	ConnectedAt  time.Time
	MaxPacket    int                    // the largest packet that the client takes, in bytes; 0: it did not say
	wanted       atomic.Int64           // version of the configuration that it should have; 0: nobody looks
	restarted    atomic.Bool            // a reboot is open that this connection may be the end of
	firmware     atomic.Pointer[string] // the version in the devices row, so that only a change writes it
}

// ConnectInfo is what presence and history say of a connection.
type ConnectInfo struct {
	Remote   string // the peer's address, without port
	Protocol int    // 4 = MQTT 3.1.1, 5 = MQTT 5
	// MaxPacket is the Maximum Packet Size of MQTT 5; 0: it did not say.
	MaxPacket uint32
}

// Connect claims the next epoch for a new connection, once that is committed the
// device is online. It checks again, in the same transaction, that the device is
// enabled and its credential live. A device that enrols itself is enrolled first.
// Errors: ErrBadCredential, ErrUnavailable. The caller holds the lock of the
// device's client id.
func (r *Registry) Connect(ctx context.Context, id Identity, info ConnectInfo) (*Session, error) {
	if id.enrolling != nil {
		var err error
		if id, err = r.selfEnroll(ctx, id); err != nil {
			return nil, err
		}
	}
	c := &Claim{
		DeviceNo: id.DeviceNo, DeviceID: id.DeviceID, CredentialID: id.CredentialID, ConnectionID: r.opts.NextID(), NodeID: r.opts.NodeID,
		BootID: r.bootID.Load(), Remote: info.Remote, Protocol: info.Protocol, At: r.now(), EventID: r.opts.NextID(), Tell: r.courier.Watched(),
	}
	b, err := r.ingest.add(func(b *Batch) { b.Claims = append(b.Claims, c) })
	if err != nil {
		return nil, err
	}
	<-b.ended // however late: a claim that commits must be known to the caller, or nobody ends it
	if b.result != nil {
		return nil, b.result
	}
	if c.Refused {
		return nil, ErrBadCredential
	}
	s := &Session{
		DeviceNo: id.DeviceNo, DeviceID: id.DeviceID, Epoch: c.Row.Presence.Epoch, ConnectionID: c.ConnectionID,
		CredentialID: id.CredentialID, ExpiresAt: id.ExpiresAt, ConnectedAt: c.At, MaxPacket: int(info.MaxPacket),
	}
	s.firmware.Store(&c.Row.FirmwareVersion)
	if s.Epoch == 1 {
		r.firstSeen(s)
	}
	r.announce(ctx, id.DeviceID, c.Tell, &c.Row)
	return s, nil
}

// announce tells people what is true of a device's presence now. The row is complete
// when told; otherwise nobody watched when it was written, and if somebody does by
// now, it is read again.
func (r *Registry) announce(ctx context.Context, deviceID string, told bool, row *Row) {
	switch {
	case !r.courier.Watched():
	case told:
		r.courier.Announce(deviceID, topic.State, row.document())
	default:
		payload, ok, err := r.Retained(ctx, deviceID, topic.State)
		if err != nil {
			r.log.Warn("subscribers were not told of a change of presence", "device_id", deviceID, "error", err)
		} else if ok {
			r.courier.Announce(deviceID, topic.State, payload)
		}
	}
}

// firstSeen records a device's first connection, without waiting for it.
func (r *Registry) firstSeen(s *Session) {
	work := &Work{Do: func(tx Tx) error {
		changed, err := tx.SetFirstSeen(context.Background(), s.DeviceNo, s.ConnectedAt)
		if err != nil || !changed {
			return err
		}
		return r.audit(context.Background(), tx, Actor{Kind: ActorDevice, ID: s.DeviceID}, s.DeviceID, "first_seen", nil)
	}}
	if _, err := r.ingest.add(func(b *Batch) { b.Work = append(b.Work, work) }); err != nil {
		r.log.Warn("a first connection was not recorded", "device_id", s.DeviceID, "error", err)
	}
}

// Disconnect ends a connection: it writes status, reason and history under the
// connection's fence, and announces the change. changed is false when a newer
// connection took over. It tries again until ctx ends, since presence that stays
// wrong is worse than one that comes late; the sweep mends what is left.
func (r *Registry) Disconnect(ctx context.Context, s *Session, reason Reason, lastSeen time.Time) (changed bool, err error) {
	d := &Disconnect{DeviceNo: s.DeviceNo, DeviceID: s.DeviceID, Epoch: s.Epoch, At: r.now(), LastSeen: lastSeen.UTC().Truncate(time.Microsecond), Reason: reason, EventID: r.opts.NextID()}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		d.Tell = r.courier.Watched()
		err = r.disconnect(d)
		if err == nil || KindOf(err) != Unavailable {
			break
		}
		select {
		case <-time.After(wait):
			continue
		case <-ctx.Done():
			return false, err
		case <-r.ingest.done:
			return false, err
		}
	}
	if err != nil || !d.Changed {
		return false, err
	}
	r.announce(ctx, s.DeviceID, d.Tell, &d.Row)
	return true, nil
}

func (r *Registry) disconnect(d *Disconnect) error {
	b, err := r.ingest.add(func(b *Batch) { b.Disconnects = append(b.Disconnects, d) })
	if err != nil {
		return err
	}
	<-b.ended
	return b.result
}

// Boot starts a new life of this node: every device that a former life left online
// is unknown from now on, until it reconnects or the silence limit passes. It must
// be called before a listener opens.
func (r *Registry) Boot(ctx context.Context) error {
	r.bootID.Store(r.opts.NextID())
	now := r.now()
	var settled int
	err := r.write(ctx, func(tx Tx) (err error) {
		settled, err = tx.SettleBoot(ctx, r.opts.NodeID, r.bootID.Load(), now)
		return err
	})
	if err != nil {
		return err
	}
	if settled > 0 {
		r.log.Info("a former life of this node left devices online; they are unknown until they return", "devices", settled)
	}
	// Rows that are unknown already are from an even older life: they are older too.
	r.unknownSince.Store(&now)
	return nil
}

const (
	sweepInterval     = 30 * time.Second
	retentionInterval = time.Minute
	retentionBatch    = 500 // rows a transaction, so that ingest never waits long
	expireInterval    = 5 * time.Second
)

// Run does the registry's recurring work until ctx ends: the sweep that compares
// presence with the live sessions, devices whose unknown time is over, shares that
// begin and end, commands whose time is over, retention.
// A failure is logged and tried again at the next turn.
func (r *Registry) Run(ctx context.Context) error {
	sweep, retention, expire := time.NewTicker(sweepInterval), time.NewTicker(retentionInterval), time.NewTicker(expireInterval)
	defer sweep.Stop()
	defer retention.Stop()
	defer expire.Stop()
	var follower sync.WaitGroup
	defer follower.Wait()
	follower.Go(func() { r.followShares(ctx) })
	due := time.NewTicker(dueInterval)
	defer due.Stop()
	suspects := map[int64]int64{}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			suspects, err = r.sweep(ctx, suspects)
		case <-due.C:
			err = r.sweepCommands(ctx)
		case <-expire.C:
			err = r.expireUnknown(ctx)
		case <-retention.C:
			err = r.retain(ctx)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("recurring work failed; it will be tried again", "error", err)
		}
	}
}

// sweep compares the registry with the live sessions, both ways. Because both move
// while they are read, only a difference that the sweep before has seen too, at the
// same epoch, is a wrong flag. It returns the differences for the next sweep.
func (r *Registry) sweep(ctx context.Context, before map[int64]int64) (map[int64]int64, error) {
	var rows []Live
	err := r.store.View(ctx, func(tx Tx) (err error) {
		rows, err = tx.LivePresence(ctx, r.opts.NodeID)
		return err
	})
	if err != nil {
		return before, err
	}
	sessions := map[int64]Live{}
	for _, s := range r.courier.Sessions() {
		sessions[s.DeviceNo] = s
	}
	differ := map[int64]int64{}
	for _, row := range rows {
		s, ok := sessions[row.DeviceNo]
		delete(sessions, row.DeviceNo)
		if ok && s.Epoch == row.Epoch {
			continue
		}
		differ[row.DeviceNo] = row.Epoch
		if epoch, seen := before[row.DeviceNo]; !seen || epoch != row.Epoch {
			continue
		}
		delete(differ, row.DeviceNo)
		r.counters.PresenceCorrections.Add(1)
		r.log.Warn("presence corrected: online without a connection", "device_id", row.DeviceID, "epoch", row.Epoch)
		session := &Session{DeviceNo: row.DeviceNo, DeviceID: row.DeviceID, Epoch: row.Epoch}
		if _, err := r.Disconnect(ctx, session, NetworkError, r.now()); err != nil {
			return differ, err
		}
	}
	for _, s := range sessions { // connected, but the registry does not say so
		differ[s.DeviceNo] = s.Epoch
		if epoch, seen := before[s.DeviceNo]; !seen || epoch != s.Epoch {
			continue
		}
		delete(differ, s.DeviceNo)
		r.counters.PresenceCorrections.Add(1)
		r.log.Warn("presence corrected: connected, but not online in the registry", "device_id", s.DeviceID, "epoch", s.Epoch)
		r.courier.Disconnect(s.DeviceID, ServerError)
	}
	return differ, nil
}

// expireUnknown turns devices offline that have not come back within the silence
// limit after a crash.
func (r *Registry) expireUnknown(ctx context.Context) error {
	since, now := r.unknownSince.Load(), r.now()
	if since == nil || !now.After(since.Add(r.opts.OfflineThreshold)) {
		return nil
	}
	var gone []Live
	var changes []*Change
	err := r.change(ctx, func(tx Tx) (err error) {
		changes = nil
		if gone, err = tx.ExpireUnknown(ctx, r.opts.NodeID, now.Add(-r.opts.OfflineThreshold), now); err != nil {
			return err
		}
		events := make([]OutboxEvent, len(gone))
		for i, g := range gone {
			events[i] = presenceEvent(r.opts.NextID(), g.DeviceID, now, Offline, NodeLost, g.Epoch)
		}
		if err := tx.InsertOutbox(ctx, events...); err != nil || !r.feed.active.Load() {
			return err
		}
		for _, g := range gone {
			d, err := tx.Device(ctx, g.DeviceID)
			if err != nil {
				return err
			}
			changes = append(changes, statusChange(d.ID, now, d.Presence))
		}
		return nil
	}, func() []*Change { return changes })
	if err != nil {
		return err
	}
	r.unknownSince.Store(nil)
	for _, d := range gone {
		payload, ok, err := r.Retained(ctx, d.DeviceID, topic.State)
		if err != nil {
			return err
		}
		if ok {
			r.courier.Announce(d.DeviceID, topic.State, payload)
		}
	}
	return nil
}

// retain deletes what has outlived its retention, in small transactions.
func (r *Registry) retain(ctx context.Context) error {
	for _, job := range []func(Tx) (int, error){
		func(tx Tx) (int, error) {
			return tx.DeleteAudit(ctx, r.now().Add(-r.opts.AuditRetention), retentionBatch)
		},
		func(tx Tx) (int, error) {
			return tx.DeleteHistory(ctx, r.now().Add(-r.opts.HistoryRetention), retentionBatch)
		},
		func(tx Tx) (int, error) { return tx.DeleteClaims(ctx, r.now().Add(-claimMemory), retentionBatch) },
		func(tx Tx) (int, error) { return tx.DeleteExpiredInvitations(ctx, r.now(), retentionBatch) },
		func(tx Tx) (int, error) {
			return tx.DeleteFinishedCommands(ctx, r.now().Add(-r.opts.HistoryRetention), retentionBatch)
		},
		func(tx Tx) (int, error) { return tx.DeleteCommandRates(ctx, r.now(), retentionBatch) },
	} {
		for ctx.Err() == nil {
			var n int
			err := r.write(ctx, func(tx Tx) (err error) { n, err = job(tx); return err })
			if err != nil {
				return err
			}
			if n < retentionBatch {
				break
			}
		}
	}
	return nil
}
