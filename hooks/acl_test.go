package hooks_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opticworks/devicecloud/firmware-sim/mqttwire"
	"github.com/opticworks/devicecloud/hooks"
	"github.com/opticworks/devicecloud/topic"
)

// payloadOf is a good payload of each kind that a device publishes.
func payloadOf(d thing, k topic.Kind) string {
	switch k {
	case topic.Provision:
		return fmt.Sprintf(`{"device_id":%q,"mac_address":%q,"firmware_version":"1.2.0","timestamp":"2026-01-15T10:00:00Z"}`, d.id, d.mac)
	case topic.State:
		return goodState
	case topic.ConfigStatus:
		return `{"version":3,"status":"applied","zone_count":2}`
	case topic.OTAStatus:
		return `{"status":"downloading","version":"1.3.0","progress":40}`
	}
	return `{"request_id":"r1","command_id":"c1","status":"succeeded"}`
}

func byDirection(d topic.Direction) (kinds []topic.Kind) {
	for _, k := range topic.Kinds() {
		if k.Direction() == d {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

func spell(id string, k topic.Kind) string {
	if k == topic.Command {
		return root.BuildCommand(id, "reboot")
	}
	return root.Build(id, k)
}

// disguises are other spellings of a name, none of which is that name.
func disguises(name, id, other string) []string {
	return []string{
		"/" + name, name + "/", name + " ", " " + name, strings.ToUpper(name), strings.Replace(name, "opticworks", "Opticworks", 1),
		strings.Replace(name, "/", "//", 1), strings.Replace(name, id, strings.ToUpper(id), 1), strings.Replace(name, id, id[:31], 1),
		strings.Replace(name, id, id+"0", 1), strings.Replace(name, id, id+"/../"+other, 1), strings.Replace(name, id, other, 1),
		strings.Replace(name, "o", "\u043e", 1),   // Cyrillic o
		strings.Replace(name, "/", "\u2215", 1),   // division slash
		strings.Replace(name, "/", "\uff0f", 1),   // full-width solidus
		strings.Replace(name, id, id+"\u200b", 1), // zero-width space
		strings.Replace(name, "t", "\uff54", 1),   // full-width t
		"$share/g/" + name, "$SHARE/g/" + name, "$SYS/" + name, "$queue/" + name, "x" + name, name + "x",
	}
}

// Every form of what a device may and may not publish. What it may succeeds in the
// same run, so that a refusal of everything would not pass.
func TestDevicePublishes(t *testing.T) {
	c := newCloud(t)
	d, other := c.enroll(), c.enroll()
	watcher := c.app(c.staff(), "a:", "watcher", mqttwire.V5)
	subscribe(t, watcher, 1, "#")
	c.connect(other, mqttwire.V311)
	next(t, watcher) // that it is online

	var allowed, refused []string
	for _, k := range byDirection(topic.FromDevice) {
		name := spell(d.id, k)
		allowed = append(allowed, name)
		refused = append(refused, spell(other.id, k))
		refused = append(refused, disguises(name, d.id, other.id)...)
	}
	for _, k := range byDirection(topic.ToDevice) {
		refused = append(refused, spell(d.id, k), spell(other.id, k))
	}
	refused = append(refused, d.topic("commands"), d.topic("command"), "$SYS/x", "$share/g/x", "$CONTROL/dynamic-security/v1", "opticworks", "x",
		"opticworks/"+d.id, "opticworks/"+d.id+"/../"+other.id+"/state")
	t.Logf("%d forms", 2*(len(allowed)+len(refused)))

	live := map[mqttwire.Version]*mqttwire.Client{}
	for _, version := range versions {
		t.Run("MQTT "+version.String(), func(t *testing.T) {
			for _, name := range allowed {
				cl := c.connect(d, version)
				k, _ := root.Parse(name)
				publish(t, cl, name, payloadOf(d, k.Kind))
				live[version] = cl
			}
			cl := c.connect(d, version)
			for _, name := range refused {
				ack, err := cl.Publish(mqttwire.Message{Topic: name, Payload: []byte(goodState), QoS: 1})
				var no *mqttwire.RefusedError
				switch {
				case err == nil:
					t.Errorf("%q was acknowledged", name)
				case version == mqttwire.V311:
					if ack != nil || ended(t, cl) != 0 {
						t.Errorf("%q: not closed", name)
					}
					cl = c.connect(d, version)
				case !errors.As(err, &no) || no.Code != 0x87:
					t.Fatalf("%q: %v", name, err)
				default:
					ack, err = cl.Publish(mqttwire.Message{Topic: name, Payload: []byte(goodState), QoS: 2})
					if ack == nil || ack.Type != mqttwire.PUBREC || ack.ReasonCode != 0x87 {
						t.Errorf("%q at QoS 2: %v", name, err)
					}
				}
				if _, err := cl.Publish(mqttwire.Message{Topic: name, Payload: []byte(goodState)}); err != nil {
					t.Errorf("%q at QoS 0: %v", name, err)
				}
			}
			if err := cl.Ping(); err != nil {
				t.Errorf("after refusals at QoS 0: %v", err)
			}
		})
	}
	t.Run("the other device and its topics saw nothing", func(t *testing.T) {
		if at := c.row(other).ReportedAt; !at.IsZero() {
			t.Error("a state was written for the other device")
		}
		if err := watcher.Ping(); err != nil {
			t.Fatal(err)
		}
		for {
			p, err := watcher.Next(0)
			if err != nil {
				break
			}
			others := p.Topic == other.topic("state") && decode(t, p.Payload).Uptime == nil // that it is online
			if !others && !strings.HasPrefix(p.Topic, d.topic("")) {
				t.Errorf("got %s on %s", p.Payload, p.Topic)
			}
		}
	})
	if n := c.counter("mqtt_denials_total", "publish"); n < float64(len(refused)) {
		t.Errorf("%v denials counted", n)
	}
}

func TestDeviceSubscribes(t *testing.T) {
	c := newCloud(t)
	d, other := c.enroll(), c.enroll()
	allowed := []string{d.topic("command/+")}
	var refused []string
	for _, k := range byDirection(topic.ToDevice) {
		name := spell(d.id, k)
		allowed = append(allowed, name)
		refused = append(refused, spell(other.id, k))
		refused = append(refused, disguises(name, d.id, other.id)...)
		refused = append(refused, strings.Replace(name, d.id, "+", 1), "+/"+d.id+name[len("opticworks/")+32:])
	}
	for _, k := range byDirection(topic.FromDevice) {
		refused = append(refused, spell(d.id, k), spell(other.id, k))
	}
	refused = append(refused, disguises(d.topic("command/+"), d.id, other.id)...)
	refused = append(refused, "#", "+", "+/#", "+/+", "+/+/state", "opticworks/#", "opticworks/+", "opticworks/+/#", "opticworks/+/state", "opticworks/+/command/+",
		"opticworks/"+d.id, d.topic("#"), d.topic("+"), d.topic("+/response"), d.topic("+/+"), d.topic("command/#"), d.topic("command/+/+"),
		d.topic("command"), d.topic("command/"), d.topic("config/+"), d.topic("kvs/+/response"), d.topic("command/REBOOT"), d.topic("command/a b"),
		other.topic("#"), other.topic("command/+"), "$share/g/#", "$SHARE/g/"+other.topic("command/+"), "$share/"+d.id+"/"+d.topic("command/+"),
		"$SYS/#", "$SYS/broker/version", "$CONTROL/#")
	t.Logf("%d forms", 2*(len(allowed)+len(refused)))
	for _, version := range versions {
		t.Run("MQTT "+version.String(), func(t *testing.T) {
			cl := c.connect(d, version)
			for _, filter := range allowed {
				subscribe(t, cl, 1, filter)
			}
			want := mqttwire.ReasonCode(0x87)
			if version == mqttwire.V311 {
				want = 0x80
			}
			for _, filter := range refused {
				if strings.HasPrefix(filter, d.topic("command/reboot")) && topic.ValidCommandType(filter[len(d.topic("command/")):]) {
					continue // another type of command
				}
				_, err := cl.Subscribe(mqttwire.Filter{Topic: filter, QoS: 1})
				var no *mqttwire.RefusedError
				if !errors.As(err, &no) || no.Code != want {
					t.Errorf("%q: %v", filter, err)
				}
				if err != nil && no == nil {
					cl = c.connect(d, version)
				}
			}
		})
	}
}

func TestTopicAliasIsRefused(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	for _, name := range []string{"", d.topic("state")} {
		cl := c.connect(d, mqttwire.V5)
		err := cl.Write(&mqttwire.Packet{
			Type: mqttwire.PUBLISH, Topic: name, QoS: 1, PacketID: 1, Payload: []byte(goodState),
			Properties: mqttwire.Properties{mqttwire.Number(mqttwire.PropTopicAlias, 1)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if code := ended(t, cl); code != 0x94 {
			t.Errorf("%q: %#x", name, byte(code))
		}
	}
	if !c.row(d).ReportedAt.IsZero() {
		t.Error("a state was written")
	}
}

// One device cannot fill the server with filters.
func TestFiltersAreBounded(t *testing.T) {
	c := newCloud(t)
	d := c.enroll()
	for _, version := range versions {
		cl := c.connect(d, version)
		for i := range 33 {
			_, err := cl.Subscribe(mqttwire.Filter{Topic: d.topic(fmt.Sprintf("command/c%d", i)), QoS: 1})
			var no *mqttwire.RefusedError
			switch {
			case i < 32 && err != nil:
				t.Fatal(i, err)
			case i < 32:
			case !errors.As(err, &no), version == mqttwire.V5 && no.Code != 0x97, version == mqttwire.V311 && no.Code != 0x80:
				t.Errorf("the 33rd: %v", err)
			}
		}
		subscribe(t, cl, 1, d.topic("command/c1")) // one that it has is not one more
	}
}

// Whatever is said, device X is given nothing of device Y's, and may write nothing
// of it.
func FuzzACL(f *testing.F) {
	const x, y = "a81eaf01853585964842a74570b534f7", "b81eaf01853585964842a74570b534f7"
	for _, k := range topic.Kinds() {
		f.Add(spell(x, k))
		f.Add(spell(y, k))
	}
	for _, s := range []string{
		"#", "opticworks/+/state", "opticworks/" + x + "/command/+", "opticworks/" + x + "/#", "$share/g/opticworks/" + x + "/command/+",
		"$SYS/#", "opticworks/+/#", "+/+/+", "opticworks/" + x + "/../" + y + "/state", "$share/g/#",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if hooks.MayPublish(root, x, name) && !strings.HasPrefix(name, "opticworks/"+x+"/") {
			t.Errorf("X may publish to %q", name)
		}
		inner, _ := topic.StripShare(name)
		receives, reads := hooks.MayReceive(root, x, name), hooks.MayRead(root, name, x)
		for _, k := range topic.Kinds() {
			mine, others := spell(x, k), spell(y, k)
			if receives && topic.Match(inner, others) {
				t.Errorf("device X may subscribe to %q, which is given %q", name, others)
			}
			// command/+ matches command/response too; what is delivered is checked again.
			if receives && k.Direction() == topic.FromDevice && hooks.MayReceive(root, x, mine) {
				t.Errorf("device X may subscribe to %q and is given %q", name, mine)
			}
			// A person's filter may span devices; each topic is checked when it is delivered.
			if hooks.MayRead(root, others, x) || !k.People() && hooks.MayRead(root, mine, x) {
				t.Errorf("who reads X is given %q or %q", mine, others)
			}
		}
		if reads && topic.Match(inner, "$SYS/broker/version") {
			t.Errorf("a person may subscribe to %q", name)
		}
	})
}
