package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// batchWriter writes the parts of one batch, each in the order of its list, and
// fills in their results. An error fails the batch.
type batchWriter interface {
	states(ctx context.Context, list []*registry.StateWrite) error
	reports(ctx context.Context, list []*registry.ReportWrite) error
	disconnects(ctx context.Context, list []*registry.Disconnect) error
	claims(ctx context.Context, list []*registry.Claim) error
}

// errLostRace says that a row changed between being read and its guarded UPDATE.
var errLostRace = errors.New("another node changed the same rows")

// commit implements registry.Store. Only a batch with work of the domain's own is
// serializable: all the rest are guarded UPDATEs by primary key.
//
// The one thing that no store can promise: when PostgreSQL's connection breaks
// while it commits, the error does not tell whether it has. Every write of a batch
// may be repeated, so that a caller who tries again does no harm.
func (db *DB) commit(ctx context.Context, b *registry.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	err := db.retry(ctx, func() error {
		reset(b)
		return db.transaction(ctx, len(b.Work) > 0, func(conn *sql.Conn, t *tx) error {
			w := db.engine.batch(conn, t)
			if err := w.states(ctx, b.States); err != nil {
				return err
			}
			if err := w.reports(ctx, b.Reports); err != nil {
				return err
			}
			for _, work := range b.Work {
				if err := t.work(ctx, work); err != nil {
					return err
				}
			}
			if err := w.disconnects(ctx, b.Disconnects); err != nil {
				return err
			}
			if err := w.claims(ctx, b.Claims); err != nil {
				return err
			}
			return t.presenceEvents(ctx, b)
		})
	})
	if errors.Is(err, errLostRace) {
		return registry.ErrUnavailable.With(err)
	}
	return db.engine.wrap(err)
}

// reset clears the results of an attempt that was rolled back.
func reset(b *registry.Batch) {
	for _, s := range b.States {
		s.Stale = false
	}
	for _, r := range b.Reports {
		r.Stale = false
	}
	for _, w := range b.Work {
		w.Err = nil
	}
	for _, d := range b.Disconnects {
		d.Changed, d.Row = false, registry.Row{}
	}
	for _, c := range b.Claims {
		c.Refused, c.Began, c.Row = false, false, registry.Row{}
	}
}

// work runs one piece of work in a savepoint. Its error is its own result, unless
// the transaction itself is over or must run again.
func (t *tx) work(ctx context.Context, w *registry.Work) error {
	if _, err := t.exec(ctx, `SAVEPOINT work`); err != nil {
		return err
	}
	guest := &tx{querier: t.querier, engine: t.engine, host: ctx}
	w.Err = w.Do(guest)
	if guest.broken != nil {
		return guest.broken
	}
	if w.Err == nil {
		_, err := t.exec(ctx, `RELEASE SAVEPOINT work`)
		if err == nil || t.broken != nil {
			return err
		}
		w.Err = err // a statement failed, and Do did not say so
	}
	if _, err := t.exec(ctx, `ROLLBACK TO SAVEPOINT work`); err != nil {
		return fmt.Errorf("%w (after: %w)", err, w.Err)
	}
	_, err := t.exec(ctx, `RELEASE SAVEPOINT work`)
	return err
}

// rowColumns are the columns of device_presence p that scanRow reads, and the
// firmware version of devices d.
const rowColumns = `p.epoch, p.status, p.reason, p.node_id, p.boot_id, p.connection_id, p.remote, p.protocol,
	p.connected_at, p.changed_at, p.last_seen, p.reported_at,
	p.uptime_sec, p.wifi_rssi, p.config_version, p.radar_connected, p.zone_count, p.protocol_version`

// presenceRow is a row of device_presence with the device's firmware version.
type presenceRow struct {
	registry.Row
	bootID int64
}

// dest is where the rowColumns and the firmware version go.
func (r *presenceRow) dest() []any {
	p, s := &r.Presence, &r.State
	return []any{
		&p.Epoch, &p.Status, &p.Reason, opt(&p.NodeID), num(&r.bootID), num(&p.ConnectionID), opt(&p.Remote), num(&p.Protocol),
		at(&p.ConnectedAt), at(&p.ChangedAt), at(&p.LastSeen), at(&r.ReportedAt),
		&s.UptimeSec, &s.WifiRSSI, &s.ConfigVersion, &s.RadarConnected, &s.ZoneCount, &s.ProtocolVersion, opt(&r.FirmwareVersion),
	}
}

// ended is the history row of a connection that is over.
type ended struct {
	deviceNo int64
	registry.Connection
}

// end makes the history row of the connection that a presence row tells of.
func (r *presenceRow) end(deviceNo int64, when time.Time, reason registry.Reason) ended {
	p := &r.Presence
	return ended{deviceNo, registry.Connection{
		ID: p.ConnectionID, Epoch: p.Epoch, NodeID: p.NodeID, Remote: p.Remote, Protocol: p.Protocol,
		ConnectedAt: p.ConnectedAt, DisconnectedAt: when, Reason: reason,
	}}
}

// takeOver fills in the claim's row. over says that the connection before it still
// was the device's, and is the history row it leaves.
func takeOver(c *registry.Claim, old *presenceRow) (last ended, over bool) {
	switch was := &old.Presence; {
	case was.Status == registry.Online && (was.NodeID != c.NodeID || old.bootID == c.BootID):
		last, over = old.end(c.DeviceNo, c.At, registry.Takeover), true
	case was.Status != registry.Offline:
		last, over = old.end(c.DeviceNo, c.At, registry.NodeLost), true
	}
	c.Began = old.Presence.Status == registry.Offline
	c.Row = old.Row
	c.Row.Presence = registry.Presence{
		Epoch: old.Presence.Epoch + 1, Status: registry.Online, Reason: registry.Connected,
		NodeID: c.NodeID, ConnectionID: c.ConnectionID, Remote: c.Remote, Protocol: c.Protocol,
		ConnectedAt: c.At, ChangedAt: c.At, LastSeen: c.At,
	}
	return last, over
}
