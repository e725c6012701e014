package fleet

import (
	"math/rand/v2"
	"time"
)

// fate is how an update ends.
type fate byte

const (
	worthy fate = iota
	failing
	lying
)

// update is one that is under way.
type update struct {
	trigger otaTrigger
	fate    fate
	step    int // that comes next
}

// updateStep is one of the states of an update.
type updateStep struct {
	status   string
	progress int
}

// updateSteps are a step apart, and the first comes at once; a restart into the new firmware follows the last.
var updateSteps = [...]updateStep{{"pending", 0}, {"downloading", 0}, {"downloading", 50}, {"verifying", 100}, {"success", 100}}

// failAt is the step in whose place an update that fails does.
const failAt = 3

// nextFate decides how the next update ends: the same for the same seed, device and count.
func (d *Device) nextFate() fate {
	d.updates++
	draw := rand.New(rand.NewPCG(uint64(d.seed)<<32|uint64(d.index), uint64(d.updates))).Float64()
	switch {
	case draw < d.life.UpdateFailures:
		return failing
	case draw < d.life.UpdateFailures+d.life.UpdateLies:
		return lying
	}
	return worthy
}

// beginUpdate obeys a trigger. One that comes again for what is under way changes nothing.
func (s *session) beginUpdate(t otaTrigger, now time.Time) error {
	d := s.d
	switch {
	case t.Version == "" || t.URL == "":
		return s.sayUpdate(t, "failed", 0, "bad_trigger", forOther, now)
	case t.MinRSSI != 0 && d.rssi() < t.MinRSSI:
		return s.sayUpdate(t, "failed", 0, "rssi_too_low", forOther, now)
	case t.Version == d.firmware:
		return s.sayUpdate(t, "success", 100, "", forOther, now)
	case d.updating != nil && d.updating.trigger == t:
		return nil
	}
	d.updating = &update{trigger: t, fate: d.nextFate()}
	return s.continueUpdate(d.updating, now)
}

// continueUpdate does the next step of an update, and schedules the one after it.
func (s *session) continueUpdate(u *update, now time.Time) error {
	if s.d.updating != u {
		return nil // a newer trigger took its place
	}
	if u.step == failAt && u.fate == failing {
		s.d.updating = nil
		return s.sayUpdate(u.trigger, "failed", 50, "hash_mismatch", forOther, now)
	}
	step, why := updateSteps[u.step], forOther
	if u.step++; u.step < len(updateSteps) {
		s.schedule = append(s.schedule, later{now.Add(s.d.life.OTAStep), func(now time.Time) error { return s.continueUpdate(u, now) }})
	} else {
		why, s.d.updating = forReboot, nil
		s.reboot = now.Add(rebootLatest)
		if u.fate != lying {
			s.d.firmware = u.trigger.Version
		}
	}
	return s.sayUpdate(u.trigger, step.status, step.progress, "", why, now)
}

func (s *session) sayUpdate(t otaTrigger, status string, progress int, code string, why purpose, now time.Time) error {
	return s.publish("ota/status", 1, true, why, otaStatus{
		Status: status, Version: t.Version, Progress: progress, Error: code, RolloutID: t.RolloutID, Timestamp: timestamp(now),
	})
}
