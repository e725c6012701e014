package hooks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/registry"
)

// command sends a command to a device as an administrator.
func (c *cloud) command(d thing, requestID, typ string) registry.Command {
	c.t.Helper()
	if c.commander.ID == "" {
		c.commander = registry.Actor{
			Kind: registry.ActorAdmin, ID: c.staff().id, Scopes: []string{registry.ScopeDeviceRead, registry.ScopeDeviceControl}, ProvedAt: time.Now(),
		}
	}
	got, _, err := c.reg.SendCommand(context.Background(), c.commander, d.id, registry.CommandRequest{RequestID: requestID, Type: typ})
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

// commandIs waits until a command has a state.
func (c *cloud) commandIs(command registry.Command, want registry.CommandStatus) {
	c.t.Helper()
	eventually(c.t, "the command is "+string(want), func() bool {
		got, err := c.reg.Command(context.Background(), c.commander, command.DeviceID, command.ID)
		return err == nil && got.Status == want
	})
}

// answerTo is what a device says of a command.
func answerTo(c registry.Command, status string) string {
	return fmt.Sprintf(`{"command_id":%q,"status":%q}`, c.ID, status)
}

func TestCommands(t *testing.T) {
	for _, version := range []mqttwire.Version{mqttwire.V311, mqttwire.V5} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			c := newCloud(t)
			d := c.enroll()
			waiting := c.command(d, "r1", "identify")
			if waiting.Status != registry.CommandQueued {
				t.Errorf("it is %s", waiting.Status)
			}
			cl := c.connect(d, version)
			silent(t, cl) // it has not subscribed
			subscribe(t, cl, 1, d.topic("command/+"))
			t.Run("what waited comes after the SUBACK", func(t *testing.T) {
				p := next(t, cl)
				var got struct {
					ID   string `json:"command_id"`
					Type string
				}
				if err := json.Unmarshal(p.Payload, &got); err != nil || got.ID != waiting.ID || p.Topic != d.topic("command/identify") || p.QoS != 1 || p.Retain {
					t.Errorf("got %s %s", p.Topic, p.Payload)
				}
				if len(p.Payload) > 768 {
					t.Errorf("it has %d bytes", len(p.Payload))
				}
				if version == mqttwire.V5 {
					expiry, _ := p.Properties.Number(mqttwire.PropMessageExpiry)
					correlation, _ := p.Properties.Get(mqttwire.PropCorrelationData)
					if p.Properties.Text(mqttwire.PropResponseTopic) != d.topic("command/response") || string(correlation.Data) != waiting.ID || expiry < 50 || expiry > 60 {
						t.Errorf("properties %v", p.Properties)
					}
				}
			})
			t.Run("the acknowledgement is the delivery", func(t *testing.T) { c.commandIs(waiting, registry.CommandDelivered) })
			t.Run("the answer is acknowledged when it is committed, and people hear it", func(t *testing.T) {
				app := c.app(c.login("ann", d), "u:", "phone", mqttwire.V5)
				subscribe(t, app, 1, d.topic("command/response"))
				publish(t, cl, d.topic("command/response"), answerTo(waiting, "succeeded"))
				if got, err := c.reg.Command(context.Background(), c.commander, d.id, waiting.ID); err != nil || got.Status != registry.CommandSucceeded {
					t.Errorf("after the PUBACK it is %s: %v", got.Status, err)
				}
				if p := next(t, app); p.Topic != d.topic("command/response") {
					t.Errorf("got %s", p.Topic)
				}
				publish(t, cl, d.topic("command/response"), answerTo(waiting, "failed")) // late
				silent(t, app)
			})
			t.Run("a connected device gets it at once", func(t *testing.T) {
				live := c.command(d, "r2", "identify")
				next(t, cl)
				c.commandIs(live, registry.CommandDelivered)
			})
			t.Run("who names types gets those alone", func(t *testing.T) {
				if _, err := cl.Unsubscribe(d.topic("command/+")); err != nil {
					t.Fatal(err)
				}
				subscribe(t, cl, 1, d.topic("command/reboot"))
				sings := c.command(d, "r8", "sing")
				c.commandIs(sings, registry.CommandFailed)
				c.command(d, "r9", "reboot")
				if p := next(t, cl); p.Topic != d.topic("command/reboot") {
					t.Errorf("got %s", p.Topic)
				}
			})
		})
	}
}
