package fleet

import "time"

// Manner is how devices treat commands that they can do and that do not restart them.
type Manner string

// The manners.
const (
	Prompt     Manner = "prompt"     // done and answered at once
	Slow       Manner = "slow"       // accepted, in progress, and done after CommandTime
	Failing    Manner = "failing"    // tried, and failed
	Twice      Manner = "twice"      // answered two times, as if the PUBACK had been lost
	Silent     Manner = "silent"     // done and never answered
	Restarting Manner = "restarting" // accepted; a restart comes in between, and the answer when the command is sent again
)

// answerInManner answers a command that was done, or that is still to be.
func (s *session) answerInManner(done commandResponse, now time.Time) error {
	say := func(a commandResponse) error { return s.publish("command/response", 1, false, forOther, a) }
	step := func(status string) commandResponse {
		a := done
		a.Status, a.Result = status, nil
		return a
	}
	switch s.d.life.Commands {
	case Slow:
		half := s.d.life.CommandTime / 2
		s.d.remember(step("accepted"))
		then := func(a commandResponse) func(time.Time) error {
			return func(now time.Time) error {
				a.Timestamp = timestamp(now)
				s.d.remember(a)
				return say(a)
			}
		}
		s.schedule = append(s.schedule, later{now.Add(half), then(step("in_progress"))}, later{now.Add(2 * half), then(done)})
		return say(step("accepted"))
	case Failing:
		failed := step("failed")
		failed.Code, failed.Message = "DEVICE_FAULT", "the device could not do it"
		s.d.remember(failed)
		return say(failed)
	case Twice:
		if err := say(done); err != nil {
			return err
		}
	case Silent:
		return nil
	case Restarting:
		s.reboot = now.Add(rebootLatest)
		return s.publish("command/response", 1, false, forReboot, step("accepted"))
	}
	return say(done)
}

// remember keeps the newest answer to each of the last commands, over a restart too, so that a repeated one has one
// effect and one answer.
func (d *Device) remember(a commandResponse) {
	for i := range d.answered {
		if d.answered[i].CommandID == a.CommandID {
			d.answered[i] = a
			return
		}
	}
	d.answered = append(d.answered, a)
	if len(d.answered) > rememberCommands {
		d.answered = d.answered[1:]
	}
}
