package media

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// CommandEndViewer is the type of the command by which a device is told to end a viewer.
const CommandEndViewer = "end-viewer"

const (
	// lookEvery is how often it is looked whether somebody watches who may not: what is
	// taken away acts within a second.
	lookEvery  = 500 * time.Millisecond
	sweepEvery = time.Minute
	atOnce     = 100
)

// Run does the recurring work until ctx ends: viewers who lost their access are ended, and
// what is over is deleted. One read a half second, of an index with as many rows as
// people may be watching; what needs no clock of this node is found by every node, and
// done once.
func (s *Service) Run(ctx context.Context) {
	look, sweep := time.NewTicker(lookEvery), time.NewTicker(sweepEvery)
	defer look.Stop()
	defer sweep.Stop()
	quiet := false // one complaint for one trouble
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			err = s.EndOutsiders(ctx)
		case <-sweep.C:
			err = s.sweep(ctx)
		}
		if err != nil && !quiet && ctx.Err() == nil {
			s.log.Error("viewers who lost their access could not be ended", "error", err)
		}
		quiet = err != nil
	}
}

// EndOutsiders tells devices to end the viewers whose people have no role on them any
// more, whatever took it away: a share that was revoked, left or ended, a device that
// changed hands, a person who was erased.
func (s *Service) EndOutsiders(ctx context.Context) error {
	var list []Watcher
	now := s.now()
	err := s.store.View(ctx, func(tx Tx) (err error) {
		list, err = tx.Outsiders(ctx, now, atOnce)
		return err
	})
	if err != nil {
		return err
	}
	var failed error
	for _, w := range list {
		failed = errors.Join(failed, s.end(ctx, w, now))
	}
	return failed
}

// end sends the command and forgets the viewer. The command's request id is the viewer's,
// so that it is one command whoever comes first, and however often.
func (s *Service) end(ctx context.Context, w Watcher, now time.Time) error {
	params, err := json.Marshal(map[string]string{"client_id": w.ClientID})
	if err != nil {
		return err
	}
	ttl := max(w.LiveUntil.Sub(now), time.Second)
	_, _, err = s.devices.InstructDevice(ctx, w.DeviceID, registry.CommandRequest{
		RequestID: "viewer-" + strconv.FormatInt(w.No, 10), Type: CommandEndViewer, Params: params, TTL: &ttl,
	})
	switch {
	case err == nil, errors.Is(err, registry.ErrDeviceNotFound):
	case errors.Is(err, registry.ErrUnsupported):
		s.log.Warn("a viewer lost their access and the device's firmware cannot end them", "device_id", w.DeviceID, "client_id", w.ClientID)
	default:
		return err
	}
	return s.store.InTx(ctx, func(tx Tx) error { return tx.DeleteWatcher(ctx, w.No) })
}

// sweep deletes what is over.
func (s *Service) sweep(ctx context.Context) error {
	now := s.now()
	s.lent.sweep(now)
	for n := atOnce; n == atOnce; {
		err := s.store.InTx(ctx, func(tx Tx) (err error) {
			var vends int
			if n, err = tx.DeleteWatchers(ctx, now, atOnce); err == nil {
				vends, err = tx.DeleteVends(ctx, now.Add(-vendDay), atOnce)
			}
			n = max(n, vends)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
