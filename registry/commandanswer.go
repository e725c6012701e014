package registry

import (
	"context"
	"encoding/json"
	"time"
)

// CommandAnswer is what a device says of a command. [contracts G.2]
type CommandAnswer struct {
	CommandID string
	Status    string // accepted, in_progress, succeeded, failed, rejected
	Code      string // at most 64 characters
	Message   string // at most 256 characters
	Result    string // a JSON object of at most 2 KiB; "" when there is none
}

const maxCommandResult = 2 << 10

// DecodeCommandAnswer reads a message of command/response: command_id and status are
// required.
func DecodeCommandAnswer(payload []byte) (CommandAnswer, error) {
	var a CommandAnswer
	err := eachMember(payload, func(name, v []byte) (err error) {
		key := string(name)
		switch {
		case key == "command_id":
			a.CommandID, err = stringValue(key, v, 1, 64)
		case key == "status":
			if err = oneOf(key, v, "accepted", "in_progress", "succeeded", "failed", "rejected"); err == nil {
				a.Status = string(v[1 : len(v)-1])
			}
		case isNull(v):
		case key == "code":
			a.Code, err = stringValue(key, v, 0, 64)
		case key == "message":
			a.Message, err = stringValue(key, v, 0, 256)
		case key == "result":
			if v[0] != '{' || len(v) > maxCommandResult {
				return badPayload("result must be an object of at most %d bytes.", maxCommandResult)
			}
			a.Result = string(v)
		}
		return err
	})
	switch {
	case err != nil:
		return CommandAnswer{}, err
	case a.CommandID == "":
		return CommandAnswer{}, badPayload("command_id is missing.")
	case a.Status == "":
		return CommandAnswer{}, badPayload("status is missing.")
	}
	return a, nil
}

// apply is the command after the answer; changed is false when the answer says nothing
// new.
func (a CommandAnswer) apply(c Command, now time.Time) (_ Command, changed bool) {
	if c.DeliveredAt.IsZero() {
		c.DeliveredAt = now // an answer is a receipt too
		changed = true
	}
	started := c.Status == CommandDelivered || c.Status == CommandInProgress
	switch {
	case a.Status == "accepted" && !started:
		c.Status, changed = CommandDelivered, true
	case a.Status == "in_progress" && c.Status != CommandInProgress:
		c.Status, changed = CommandInProgress, true
	case a.Status == "succeeded" || a.Status == "failed" || a.Status == "rejected":
		c.Status, c.Code, c.Message, c.Result, changed = CommandStatus(a.Status), a.Code, a.Message, a.Result, true
	}
	if changed && !c.Status.Final() {
		c.DueAt = c.DeliveredAt.Add(typeOf(c.Type).execution)
	}
	return c, changed
}

// answered is what became of an answer.
type answered struct {
	command Command
	changed bool
}

// AnswerCommand takes what a device says of a command; nil is a commit receipt. A
// command that has ended stays as it is: the first answer after that is only audited.
// news says that the answer changed the command, or is about one that the registry does
// not know (any more): people may be told of it. Errors: Invalid, ErrStale,
// ErrUnavailable.
func (r *Registry) AnswerCommand(ctx context.Context, s *Session, payload []byte) (news bool, err error) {
	answer, err := DecodeCommandAnswer(payload)
	if err != nil {
		return false, err
	}
	return r.takeAnswer(ctx, s, answer)
}

func (r *Registry) takeAnswer(ctx context.Context, s *Session, answer CommandAnswer) (news bool, err error) {
	now := r.now()
	var got answered
	err = r.change(ctx, func(tx Tx) (err error) {
		got, err = r.answerCommand(ctx, tx, s, answer, now)
		return err
	}, func() []*Change {
		if !got.changed {
			return nil
		}
		return []*Change{commandChange(got.command, now)}
	})
	if err != nil {
		return false, err
	}
	if got.changed && got.command.Status.Final() {
		r.dispatch.finished(got.command)
	}
	return got.changed || got.command.No == 0, nil
}

// AnswerCommandLater is AnswerCommand for QoS 0: it never blocks, and drops the answer
// with ErrUnavailable when too much waits.
func (r *Registry) AnswerCommandLater(s *Session, payload []byte) error {
	answer, err := DecodeCommandAnswer(payload)
	if err != nil {
		return err
	}
	if r.ingest.overfull() {
		r.counters.Dropped.Add(1)
		return ErrUnavailable
	}
	r.dispatch.background(func() {
		if _, err := r.takeAnswer(context.Background(), s, answer); err != nil {
			r.log.Debug("an answer at QoS 0 was not recorded", "device_id", s.DeviceID, "error", err)
		}
	})
	return nil
}

func (r *Registry) answerCommand(ctx context.Context, tx Tx, s *Session, answer CommandAnswer, now time.Time) (answered, error) {
	dev, err := tx.Device(ctx, s.DeviceID)
	if err != nil {
		return answered{}, err
	}
	if dev.Presence.Epoch != s.Epoch {
		return answered{}, ErrStale
	}
	c, err := tx.Command(ctx, s.DeviceNo, answer.CommandID)
	if KindOf(err) == NotFound {
		return answered{}, nil
	}
	if err != nil {
		return answered{}, err
	}
	if c.Status.Final() {
		return r.lateAnswer(ctx, tx, c, answer, now)
	}
	from := c.Status
	after, changed := answer.apply(c, now)
	if !changed {
		return answered{command: c}, nil
	}
	after.Firmware = dev.FirmwareVersion
	if !after.Status.Final() {
		_, err := tx.AdvanceCommand(ctx, after, from)
		return answered{command: after, changed: true}, err
	}
	to, code := after.Status, after.Code
	after.Status = from
	err = r.endCommand(ctx, tx, deviceActor(s.DeviceID), &after, to, code, now)
	return answered{command: after, changed: true}, err
}

// lateAnswer audits the first answer to a command that has ended. The same final answer
// again is a duplicate, which a device sends when it did not hear the PUBACK.
func (r *Registry) lateAnswer(ctx context.Context, tx Tx, c Command, answer CommandAnswer, now time.Time) (answered, error) {
	got := answered{command: c}
	if string(c.Status) == answer.Status {
		return got, nil
	}
	first, err := tx.SetCommandLate(ctx, c.No, now)
	if err != nil || !first {
		return got, err
	}
	return got, r.audit(ctx, tx, deviceActor(c.DeviceID), c.DeviceID, "late_response", map[string]any{
		"commandId": c.ID, "requestId": c.RequestID, "issuedBy": c.Issuer, "type": c.Type, "status": string(c.Status),
		"answer": answer.Status, "code": answer.Code, "late_ms": now.Sub(c.FinishedAt).Milliseconds(), "node_id": r.opts.NodeID,
	})
}

func deviceActor(deviceID string) Actor {
	return Actor{Kind: ActorDevice, ID: deviceID, ClientType: "device"}
}

// CommandReceived records that a device has acknowledged a command. It does not wait.
func (r *Registry) CommandReceived(s *Session, commandID string) {
	now := r.now()
	var c Command
	changed := false
	work := &Work{Do: func(tx Tx) (err error) {
		ctx := context.Background()
		changed = false
		if c, err = tx.Command(ctx, s.DeviceNo, commandID); err != nil || c.Status != CommandSent {
			return err
		}
		c.Status, c.DeliveredAt, c.DueAt = CommandDelivered, now, now.Add(typeOf(c.Type).execution)
		changed, err = tx.AdvanceCommand(ctx, c, CommandSent)
		return err
	}, Changes: func() []*Change {
		if !changed {
			return nil
		}
		return []*Change{commandChange(c, now)}
	}}
	if _, err := r.ingest.add(func(b *Batch) { b.Work = append(b.Work, work) }); err != nil {
		r.log.Debug("a receipt was not recorded; the command is sent again", "device_id", s.DeviceID, "error", err)
	}
}

// settleRestart ends the reboots that a device has come back from: a connection from
// after the command, with less uptime than has passed since. [contracts G.2]
func (r *Registry) settleRestart(s *Session) {
	ctx, now := context.Background(), r.now()
	var ended []Command
	waits := false
	err := r.change(ctx, func(tx Tx) error {
		ended, waits = nil, false
		dev, err := tx.Device(ctx, s.DeviceID)
		if err != nil || dev.Presence.Epoch != s.Epoch {
			return err
		}
		open, err := tx.OpenCommands(ctx, s.DeviceNo)
		if err != nil {
			return err
		}
		for _, c := range open {
			if !c.restartedBy(s) {
				continue
			}
			if up := dev.State.UptimeSec; up == nil || dev.ReportedAt.Before(s.ConnectedAt) || time.Duration(*up)*time.Second >= dev.ReportedAt.Sub(c.SentAt) {
				waits = true
				continue
			}
			if c.DeliveredAt.IsZero() {
				c.DeliveredAt = now
			}
			if err := r.endCommand(ctx, tx, deviceActor(s.DeviceID), &c, CommandSucceeded, "", now); err != nil {
				return err
			}
			ended = append(ended, c)
		}
		return nil
	}, func() (all []*Change) {
		for _, c := range ended {
			all = append(all, commandChange(c, now))
		}
		return all
	})
	if err != nil {
		r.log.Warn("a reboot was not recorded", "device_id", s.DeviceID, "error", err)
		return
	}
	if !waits {
		s.restarted.Store(false)
	}
	r.dispatch.finished(ended...)
}

// updateEnded ends the update that a device was commanded to, when it reports how that
// went.
func (r *Registry) updateEnded(s *Session, payload []byte) {
	var report struct{ Version, Status, Error string }
	if json.Unmarshal(payload, &report) != nil || report.Status != "success" && report.Status != "failed" {
		return
	}
	ctx, now := context.Background(), r.now()
	var ended []Command
	err := r.change(ctx, func(tx Tx) error {
		ended = nil
		open, err := tx.OpenCommands(ctx, s.DeviceNo)
		if err != nil {
			return err
		}
		for _, c := range open {
			var asked struct{ Version string }
			if c.Type != "ota" || c.Status == CommandQueued || json.Unmarshal([]byte(c.Params), &asked) != nil || asked.Version != report.Version {
				continue
			}
			to, code := CommandSucceeded, ""
			if report.Status == "failed" {
				to, code = CommandFailed, string([]rune(report.Error)[:min(64, len([]rune(report.Error)))])
			}
			if err := r.endCommand(ctx, tx, deviceActor(s.DeviceID), &c, to, code, now); err != nil {
				return err
			}
			ended = append(ended, c)
		}
		return nil
	}, func() (all []*Change) {
		for _, c := range ended {
			all = append(all, commandChange(c, now))
		}
		return all
	})
	if err != nil {
		r.log.Warn("the end of an update was not recorded", "device_id", s.DeviceID, "error", err)
	}
	r.dispatch.finished(ended...)
}

// completed is what the outside hears of a command's end. [contracts H]
func (c *Command) completed() map[string]any {
	data := map[string]any{
		"commandId": c.ID, "requestId": c.RequestID, "type": c.Type, "status": string(c.Status), "issuedBy": c.Issuer,
		"issuedAt": c.IssuedAt, "finishedAt": c.FinishedAt,
	}
	for name, text := range map[string]string{"code": c.Code, "message": c.Message} {
		if text != "" {
			data[name] = text
		}
	}
	if c.Result != "" {
		data["result"] = json.RawMessage(c.Result)
	}
	return data
}

// dropCommands removes a device's commands when it is released: they are its former
// owner's. Those that were open leave a row in the audit trail.
func (r *Registry) dropCommands(ctx context.Context, tx Tx, a Actor, d Device) (ended []Command, err error) {
	open, err := tx.OpenCommands(ctx, d.No)
	if err != nil {
		return nil, err
	}
	for _, c := range open {
		if err := r.endCommand(ctx, tx, a, &c, CommandCancelled, "released", r.now()); err != nil {
			return nil, err
		}
		ended = append(ended, c)
	}
	return ended, tx.DeleteCommands(ctx, d.No)
}
