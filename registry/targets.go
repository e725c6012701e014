package registry

import "time"

// CommandTargets is the type of command that turns a device's live positions, which it
// publishes on targets/stream, on and off.
const CommandTargets = "targets"

// targetsExpiry is how long such a command is worth something: a device that gets it
// later has lost its connection, and is told anew over the next one.
const targetsExpiry = 30 * time.Second

// TargetsCommand is the message that turns live positions on or off. By its form it is a
// command, so that firmware reads one form; but it is the server's own. It is in nobody's
// list, nothing of it is stored, and what the device answers to it changes nothing.
// [contracts, MQTT topic table]
func (r *Registry) TargetsCommand(on bool) (CommandDelivery, error) {
	now := r.now()
	c := Command{ID: newCommandID(now), Type: CommandTargets, Params: `{"on":false}`, IssuedAt: now, ExpiresAt: now.Add(targetsExpiry), Attempt: 1}
	if on {
		c.Params = `{"on":true}`
	}
	payload, err := c.Payload()
	return CommandDelivery{c.ID, c.Type, payload, targetsExpiry}, err
}
