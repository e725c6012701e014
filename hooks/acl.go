package hooks

import (
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// OnACLCheck says who may publish to a topic (write), subscribe to a filter, or be
// given a topic; mochi does not tell the last two apart. For a device that needs no
// look-up: it speaks and hears as itself and nothing else.
func (g *guard) OnACLCheck(cl *mqtt.Client, name string, write bool) (ok bool) {
	defer g.recovered("OnACLCheck", func() { ok = false })
	s := g.courier.session(cl)
	switch {
	case s == nil || !s.accepted.Load():
		return false
	case write:
		if s.device != nil {
			_, ok = mayPublish(g.root, s.id, name)
		}
		if !ok {
			g.metrics.denied("publish")
		}
		return ok
	case s.device != nil:
		return mayReceive(g.root, s.id, name)
	case s.away.Load() != 0 && s.cl.State.Inflight.Len() >= maxQueued:
		g.metrics.dropped.Inc()
		return false
	}
	return s.reader.mayRead(g.root, name)
}

// mayPublish reports whether a device may publish to a topic, and what for. Only
// the server publishes what goes to devices.
func mayPublish(root topic.Root, deviceID, name string) (topic.Kind, bool) {
	t, ok := root.Parse(name)
	if !ok || t.DeviceID != deviceID || t.Kind.Direction() != topic.FromDevice {
		return topic.Unknown, false
	}
	return t.Kind, true
}

// mayReceive reports whether a device may subscribe to a filter or be given a
// topic: its own, from the cloud to the device, by its exact name or by the one
// wildcard {root}/{own id}/command/+. Never shared.
func mayReceive(root topic.Root, deviceID, name string) bool {
	t, ok := root.Parse(name)
	if ok {
		return t.DeviceID == deviceID && t.Kind.Direction() == topic.ToDevice
	}
	rest, ok := strings.CutPrefix(name, string(root)+"/"+deviceID+"/")
	return ok && rest == topic.Command.String()
}

// mayRead reports whether a reader may subscribe to a filter, or be given a topic:
// to mochi's access check they look alike. A user's filter must stay within
// devices they may read, where {root}/+/... stands for exactly those, and be able
// to match a kind of topic that is for people. Staff may use any filter; what they
// are given is checked by topic all the same.
func (r *reader) mayRead(root topic.Root, name string) bool {
	inner, shared := topic.StripShare(name)
	if shared && r.person != nil {
		return false // anybody could join a group by its name and take its messages
	}
	if strings.HasPrefix(inner, "$") {
		return r.actor.Kind == registry.ActorAdmin && strings.HasPrefix(inner, mqtt.SysPrefix+"/") && validFilter(inner)
	}
	if t, ok := root.Parse(inner); ok {
		return t.Kind.People() && r.reads(t.DeviceID)
	}
	if !strings.ContainsAny(inner, "+#") || !r.readsSome() {
		return false
	}
	f, ok := root.ParseFilter(inner)
	if !ok || f.Shared {
		return !f.Shared && r.actor.MayReadAny() && validFilter(inner)
	}
	for _, k := range f.Kinds {
		if k.People() {
			return f.DeviceID == "" || r.reads(f.DeviceID)
		}
	}
	return false
}

// validFilter reports whether the wildcards of a filter stand where they may.
// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.1-3]
func validFilter(filter string) bool {
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		if l != "+" && l != "#" && strings.ContainsAny(l, "+#") || l == "#" && i != len(levels)-1 {
			return false
		}
	}
	return filter != ""
}
