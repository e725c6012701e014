package rollout

import (
	"context"
	"encoding/json"
	"strings"
	"time"
	"unicode"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// StatusReport is what a device says of an update. [contracts, MQTT topic table]
type StatusReport struct {
	Status    string // pending, downloading, verifying, success, failed
	Version   string
	Progress  int    // 0 to 100
	Error     string // of a failure: at most 64 printable characters of it
	RolloutID string // "" when the firmware does not repeat it
}

// maxError is how many characters of a device's error are kept.
const maxError = 64

// DecodeStatus reads an ota/status message that the registry has judged. It takes what
// it can: a wrong error or rollout_id is as none.
func DecodeStatus(payload []byte) (StatusReport, bool) {
	var raw struct {
		Status    string          `json:"status"`
		Version   string          `json:"version"`
		Progress  *float64        `json:"progress"`
		Error     json.RawMessage `json:"error"`
		RolloutID json.RawMessage `json:"rollout_id"`
	}
	if json.Unmarshal(payload, &raw) != nil {
		return StatusReport{}, false
	}
	text := func(v json.RawMessage, most int) (s string) {
		if json.Unmarshal(v, &s) != nil {
			return ""
		}
		s = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return -1
		}, s)
		return string([]rune(s)[:min(most, len([]rune(s)))])
	}
	r := StatusReport{Status: raw.Status, Version: raw.Version, Error: text(raw.Error, maxError), RolloutID: text(raw.RolloutID, maxError)}
	if raw.Progress != nil {
		r.Progress = int(max(0, min(100, *raw.Progress)))
	}
	return r, r.Version != ""
}

// Report takes a device's ota/status: nil is a commit receipt of the message and of what
// follows from it. Errors: those of [registry.Registry.KeepReport].
func (s *Service) Report(session *registry.Session, payload []byte) error {
	work, m := s.reportWork(session, payload)
	err := s.devices.KeepReport(session, topic.OTAStatus, payload, work...)
	if err == nil {
		s.reported(m)
	}
	return err
}

// ReportLater is Report for QoS 0: it never blocks.
func (s *Service) ReportLater(session *registry.Session, payload []byte) error {
	work, _ := s.reportWork(session, payload)
	return s.devices.KeepReportLater(session, topic.OTAStatus, payload, work...)
}

// reported does what follows a commit.
func (s *Service) reported(m *moves) {
	s.logHalts(m)
	for _, u := range m.updates {
		if u.State.Final() || u.State == Waiting {
			s.hurry() // it may have been the last, or another rollout's turn
		}
	}
}

func (s *Service) reportWork(session *registry.Session, payload []byte) ([]*registry.Work, *moves) {
	m := &moves{}
	said, ok := DecodeStatus(payload)
	if !ok {
		return nil, m // the registry says what is wrong with it
	}
	now := s.now()
	return []*registry.Work{{Do: func(tx registry.Tx) error {
		m.reset()
		return s.take(context.Background(), s.store.Of(tx), m, session, said, now)
	}, Changes: m.changes}}, m
}

// take moves the update that a report is about. What is about none, or one that has
// ended, moves nothing: the message itself is kept all the same.
func (s *Service) take(ctx context.Context, tx Tx, m *moves, session *registry.Session, said StatusReport, now time.Time) error {
	u, ok, err := tx.LiveUpdate(ctx, session.DeviceNo)
	if err != nil || !ok || u.Presence.Epoch != session.Epoch || u.Rollout.Release.Version != said.Version ||
		said.RolloutID != "" && said.RolloutID != u.Rollout.ID {
		return err
	}
	before := u
	u.Epoch = session.Epoch
	switch said.Status {
	case "failed":
		reason := said.Error
		if reason == "" {
			reason = "failed"
		}
		return s.fail(ctx, tx, m, before, reason, now)
	case "success":
		if u.Firmware == said.Version { // it had it, or has reported it already
			return s.succeed(ctx, tx, m, before, now)
		}
		if u.State == Confirming {
			return nil
		}
		u.State, u.Progress, u.SaidAt = Confirming, 100, now
		if least := now.Add(s.opts.Confirm); u.DueAt.Before(least) {
			u.DueAt = least
		}
	default:
		state, known := map[string]State{"pending": Accepted, "downloading": Downloading, "verifying": Verifying}[said.Status]
		if !known || u.State == Confirming || u.State == state && u.Progress == said.Progress && u.Epoch == before.Epoch {
			return nil
		}
		u.State, u.Progress = state, said.Progress
	}
	_, err = s.advance(ctx, tx, m, u, before, now)
	return err
}
