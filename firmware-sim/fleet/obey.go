package fleet

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
)

const (
	maxZones         = 16
	rememberCommands = 16
)

// obey does what a message of the cloud asks. What does not parse is counted and ignored, as the firmware does.
func (s *session) obey(p *mqttwire.Packet, now time.Time) error {
	suffix := strings.TrimPrefix(p.Topic, s.topic(""))
	if kind, ok := strings.CutPrefix(suffix, "command/"); ok {
		return obeyJSON(s, p, now, func(c command, now time.Time) error { return s.obeyCommand(kind, c, now) })
	}
	switch suffix {
	case "provision/response":
		return obeyJSON(s, p, now, s.provisionAnswered)
	case "config/update":
		return obeyJSON(s, p, now, s.configure)
	case "ota/trigger":
		return obeyJSON(s, p, now, s.beginUpdate)
	case "diag/request":
		return obeyJSON(s, p, now, s.diagnose)
	case "claim/response":
		return obeyJSON(s, p, now, func(r claimResponse, _ time.Time) error {
			if r.Status != "claimed" {
				s.d.stats.Fail("claim rejected: "+r.Error, nil)
			}
			return nil
		})
	case "claim/challenge":
		return obeyJSON(s, p, now, s.challenged)
	case "kvs/config/response":
		return obeyJSON(s, p, now, s.videoLocated)
	case "kvs/credentials/response":
		return obeyJSON(s, p, now, s.videoLent)
	}
	s.d.stats.Fail("message on a topic nobody asked for", nil)
	return nil
}

func obeyJSON[T any](s *session, p *mqttwire.Packet, now time.Time, do func(T, time.Time) error) error {
	var value T
	if err := json.Unmarshal(p.Payload, &value); err != nil {
		s.d.stats.Fail("unreadable message from the cloud", err)
		return nil
	}
	s.d.stats.Commands.Add(1)
	return do(value, now)
}

func (s *session) provisionAnswered(r provisionResponse, now time.Time) error {
	d := s.d
	s.provision = time.Time{}
	s.state = now
	if r.Status != "registered" {
		s.refused = true
		d.stats.Fail("provisioning rejected: "+r.Error, nil)
		return nil
	}
	d.provisioned, d.reset = true, ""
	s.videoWanted(now)
	if !d.counted {
		d.counted = true
		d.stats.Provisioned.Add(1)
	}
	if d.life.ClaimCode != "" && d.index == 0 && !d.claimed {
		d.claimed = true
		return s.publish("claim", 1, false, forOther, d.claimRequest(d.life.ClaimCode, nonce(d.rng.Uint64())))
	}
	return nil
}

func (s *session) configure(u configUpdate, now time.Time) error {
	status := configStatus{Version: u.Version, Status: "applied", ZoneCount: len(u.Zones), Timestamp: timestamp(now)}
	if len(u.Zones) > maxZones {
		status.Status, status.Error, status.ZoneCount = "rejected", "too_many_zones", s.d.zones
	} else {
		s.d.config, s.d.zones = u.Version, len(u.Zones)
	}
	return s.publish("config/status", 1, true, forOther, status)
}

func (s *session) diagnose(r diagRequest, now time.Time) error {
	return s.publish("diag/response", 1, false, forOther, s.d.diagResponse(r, now))
}

// diagResponse measures what was asked for, everything when nothing was named.
func (d *Device) diagResponse(r diagRequest, now time.Time) diagResponse {
	all := map[string]any{
		"heap":   map[string]int{"free": 140_000 + d.rng.IntN(8_000), "min_free": 98_304},
		"wifi":   map[string]int{"rssi": d.rssi(), "reconnects": d.reconnects},
		"radar":  map[string]any{"connected": true, "frames": max(d.lastMark, 0) * 10},
		"system": map[string]any{"uptime_sec": max(d.lastMark, 0), "firmware_version": d.firmware},
	}
	chosen := all
	if len(r.Include) > 0 {
		chosen = map[string]any{}
		for _, name := range r.Include {
			if part, ok := all[name]; ok {
				chosen[name] = part
			}
		}
	}
	return diagResponse{RequestID: r.RequestID, Timestamp: timestamp(now), Diagnostics: chosen}
}

// challenged answers an ownership challenge, if somebody presses the button.
func (s *session) challenged(c claimChallenge, _ time.Time) error {
	if !s.d.life.PressButton {
		return nil
	}
	return s.publish("claim/confirm", 1, false, forOther, s.d.claimConfirm(c))
}

func (d *Device) claimConfirm(c claimChallenge) claimConfirm {
	return claimConfirm{
		ClaimID: c.ClaimID, Challenge: c.Challenge,
		Proof: d.Identity.Proof("bind:v1:" + d.Identity.DeviceID + ":" + c.ClaimID + ":" + c.Challenge),
	}
}

func (d *Device) claimRequest(code, nonce string) claimRequest {
	return claimRequest{
		Code: code, Nonce: nonce,
		Proof: d.Identity.Proof("bind:v1:" + d.Identity.DeviceID + ":" + code + ":" + nonce),
	}
}

// obeyCommand executes command/{kind} once for each command id and answers every delivery.
func (s *session) obeyCommand(kind string, c command, now time.Time) error {
	d := s.d
	if kind == "targets" {
		s.stream(c, now)
	}
	if c.CommandID == "" {
		return nil // nothing to answer to
	}
	for _, old := range d.answered {
		if old.CommandID == c.CommandID {
			old.Timestamp = timestamp(now)
			return s.publish("command/response", 1, false, forOther, old)
		}
	}
	answer, why := d.execute(kind, c, now)
	d.remember(answer)
	if answer.Status == "succeeded" && why != forReboot {
		return s.answerInManner(answer, now)
	}
	if why == forReboot {
		s.reboot = now.Add(rebootLatest)
	}
	if err := s.publish("command/response", 1, false, why, answer); err != nil {
		return err
	}
	if kind != "ota" || answer.Status != "accepted" {
		return nil
	}
	var trigger otaTrigger
	if err := json.Unmarshal(c.Params, &trigger); err != nil {
		d.stats.Fail("unreadable message from the cloud", err)
		return nil
	}
	return s.beginUpdate(trigger, now)
}

// execute decides the answer to a new command, and whether a restart follows.
func (d *Device) execute(kind string, c command, now time.Time) (commandResponse, purpose) {
	answer := commandResponse{CommandID: c.CommandID, Status: "succeeded", Result: &map[string]any{}, Timestamp: timestamp(now)}
	refuse := func(code, message string) (commandResponse, purpose) {
		answer.Status, answer.Code, answer.Message, answer.Result = "rejected", code, message, nil
		return answer, forOther
	}
	if !c.ExpiresAt.IsZero() && now.After(c.ExpiresAt) {
		return refuse("COMMAND_EXPIRED", "expires_at is in the past")
	}
	switch kind {
	case "identify", "targets":
	case "set-config":
		var u configUpdate
		if err := json.Unmarshal(c.Params, &u); err != nil || len(u.Zones) > maxZones {
			return refuse("INVALID_PARAMS", "params are no zone configuration")
		}
		if u.Version > 0 {
			d.config, d.zones = u.Version, len(u.Zones)
		}
	case "reboot":
		// The cloud sees the success itself: a connection whose uptime is younger than the command.
		answer.Status, answer.Result = "accepted", nil
		return answer, forReboot
	case "factory-reset":
		d.provisioned, d.config, d.zones = false, 0, 0
		return answer, forReboot
	case "ota":
		answer.Status, answer.Result = "accepted", nil
	case "end-viewer":
		if !d.life.Video {
			return refuse("UNSUPPORTED_COMMAND", "this firmware has no camera")
		}
		if !d.endViewer(c.Params) {
			return refuse("INVALID_PARAMS", "params name no client_id")
		}
	default:
		return refuse("UNSUPPORTED_COMMAND", "this firmware does not know "+kind)
	}
	return answer, forOther
}

// stream switches the live positions on or off.
func (s *session) stream(c command, now time.Time) {
	wish := struct {
		On *bool `json:"on"`
	}{On: c.On}
	if len(c.Params) > 0 {
		if err := json.Unmarshal(c.Params, &wish); err != nil {
			s.d.stats.Fail("unreadable message from the cloud", err)
			return
		}
	}
	s.targets = time.Time{}
	if wish.On != nil && *wish.On {
		s.targets = now
	}
}

// targetsReport walks one person through the room.
func (s *session) targetsReport(now time.Time) targetsReport {
	step := int(now.UnixMilli()/100) % 60
	return targetsReport{Timestamp: now.UTC().Format(time.RFC3339Nano), Targets: []target{{ID: 1, X: -1500 + 50*step, Y: 2000}}}
}
