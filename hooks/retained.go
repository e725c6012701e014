package hooks

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Retained topics are not mochi's: a hundred thousand of its retained messages
// burn half a core. Whoever subscribes to state, config/status or ota/status gets
// them from the registry, behind the SUBACK, with retain = 1.
//
// They are written at QoS 0. They are a reading of the present: a client that
// loses its connection subscribes again and gets a newer one, so an
// acknowledgement would prove nothing, and would need packet ids in mochi's space.
// A filter with a wildcard is served by a goroutine of the session, device after
// device and a page at a time, at no more than a fixed pace: a subscriber that
// reads slowly would otherwise overflow its connection's write queue.

const (
	retainers   = 4        // sessions whose wildcards are served at once
	retainPage  = 100      // devices read at a time for staff
	retainStep  = 16 << 10 // bytes written before a pause of retainPause: 800 KiB a second
	retainPause = 20 * time.Millisecond
	// retainTries bounds how often one message is written again because it changed
	// while it was.
	retainTries = 5
)

// serving is the queue of a reader's wildcard filters that are being served.
type serving struct {
	mu      sync.Mutex
	queue   []packets.Subscription
	running bool
}

// serve writes the retained messages of newly granted filters.
func (g *guard) serve(s *session, granted []packets.Subscription) {
	for _, sub := range granted {
		if _, shared := topic.StripShare(sub.Filter); shared || sub.RetainHandling == 2 { // [MQTT-3.3.1-11]
			continue
		}
		if t, ok := g.root.Parse(sub.Filter); ok {
			if t.Kind.Retained() {
				g.retained(s, sub, t.DeviceID, t.Kind)
			}
			continue
		}
		g.serveLater(s, sub)
	}
}

// serveLater queues a filter for the session's goroutine, which it starts if there
// is none. More filters than a session may hold are not queued: they are repeats.
func (g *guard) serveLater(s *session, sub packets.Subscription) {
	q := &s.reader.serving
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxReaderFilters {
		return
	}
	q.queue = append(q.queue, sub)
	if !q.running {
		q.running = true
		g.background("serve", func() { g.serveAll(s) })
	}
}

func (g *guard) serveAll(s *session) {
	q := &s.reader.serving
	for {
		q.mu.Lock()
		if len(q.queue) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		sub := q.queue[0]
		q.queue = q.queue[1:]
		q.mu.Unlock()
		select {
		case g.retainers <- struct{}{}:
			g.serveFilter(s, sub)
			<-g.retainers
		case <-s.gone:
			return
		}
	}
}

// serveFilter writes the retained messages that match a filter with a wildcard.
func (g *guard) serveFilter(s *session, sub packets.Subscription) {
	kinds := g.retainedKinds(sub.Filter)
	if len(kinds) == 0 {
		return
	}
	written := 0
	each := func(deviceID string) bool {
		for _, k := range kinds {
			written += g.retained(s, sub, deviceID, k)
		}
		if written >= retainStep {
			written = 0
			return s.pause(retainPause)
		}
		select {
		case <-s.gone:
			return false
		default:
			return true
		}
	}
	if f, ok := g.root.ParseFilter(sub.Filter); ok && f.DeviceID != "" {
		each(f.DeviceID)
		return
	}
	if p := s.reader.person; p != nil {
		if ids := p.readable.Load(); ids != nil {
			for id := range *ids {
				if !each(id) {
					return
				}
			}
		}
		return
	}
	g.eachDevice(s, each)
}

// eachDevice calls f for every device, page by page, until it returns false. It lists
// them as the program itself, since service accounts have no list of their own: what a
// session is given is checked by topic.
func (g *guard) eachDevice(s *session, f func(deviceID string) bool) {
	filter := registry.DeviceFilter{Limit: retainPage}
	for {
		ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
		page, _, err := g.registry.AdminDevices(ctx, registry.System(), filter)
		cancel()
		if err != nil {
			g.log.Warn("retained messages were not served to the end", "client", s.id, "error", err)
			return
		}
		for _, d := range page {
			if !f(d.ID) {
				return
			}
			filter.After = d.No
		}
		if len(page) < retainPage {
			return
		}
	}
}

// retainedKinds are the retained kinds of topics that a filter can match.
func (g *guard) retainedKinds(filter string) []topic.Kind {
	kinds := topic.Kinds()
	if f, ok := g.root.ParseFilter(filter); ok {
		kinds = f.Kinds
	} else { // of staff, as wide as they like
		const any = "00000000000000000000000000000000"
		kinds = slices.DeleteFunc(kinds, func(k topic.Kind) bool { return !topic.Match(filter, g.root.Build(any, k)) })
	}
	return slices.DeleteFunc(slices.Clone(kinds), func(k topic.Kind) bool { return !k.Retained() || !k.People() })
}

// retained writes one retained message, if there is one and the reader may read
// it, and returns its size. What mochi hands out meanwhile may be newer and be
// written before it, so it is read again afterwards, and written again until it
// stays the same.
func (g *guard) retained(s *session, sub packets.Subscription, deviceID string, k topic.Kind) (size int) {
	name := g.root.Build(deviceID, k)
	var before []byte
	for range retainTries {
		if !s.reader.mayRead(g.root, name) {
			return size
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
		payload, ok, err := g.registry.Retained(ctx, deviceID, k)
		cancel()
		if err != nil && !errors.Is(err, registry.ErrDeviceNotFound) {
			g.log.Warn("a retained message was not served", "client", s.id, "device_id", deviceID, "topic", k.String(), "error", err)
		}
		if err != nil || !ok || bytes.Equal(payload, before) {
			return size
		}
		pk := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Retain: true}, TopicName: name, Payload: payload,
		}
		if sub.Identifier > 0 {
			pk.Properties.SubscriptionIdentifier = []int{sub.Identifier} // [MQTT-3.3.4-3]
		}
		if s.cl.WritePacket(pk) != nil {
			return size // too large for this client, or gone
		}
		before, size = payload, size+len(name)+len(payload)
	}
	return size
}
