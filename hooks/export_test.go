package hooks

import (
	"fmt"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Leftovers says what is left of sessions when there should be nothing.
func Leftovers(hooks []mqtt.Hook) string {
	g := hooks[0].(*guard)
	c := g.courier
	c.mu.RLock()
	defer c.mu.RUnlock()
	g.locks.mu.Lock()
	defer g.locks.mu.Unlock()
	n := [...]int{len(c.live), len(c.pending), len(c.people), len(c.foreign), len(g.locks.byID), c.server.Clients.Len()}
	if n == [...]int{0, 0, 0, 0, 0, 1} && c.watchers.Load() == 0 { // 1: mochi's inline client
		return ""
	}
	return fmt.Sprintf("live, pending, people, foreign, locks, clients %v, watchers %d", n, c.watchers.Load())
}

// MayPublish is mayPublish.
func MayPublish(root topic.Root, deviceID, name string) bool {
	_, ok := mayPublish(root, deviceID, name)
	return ok
}

// MayReceive is mayReceive.
func MayReceive(root topic.Root, deviceID, name string) bool { return mayReceive(root, deviceID, name) }

// MayRead is mayRead of a person who may read one device.
func MayRead(root topic.Root, name, deviceID string) bool {
	r := &reader{actor: registry.Actor{Kind: registry.ActorUser, ID: "1", Scopes: []string{registry.ScopeDeviceRead}}, person: &person{id: "1"}}
	r.person.readable.Store(&map[string]struct{}{deviceID: {}})
	return r.mayRead(root, name)
}

// ShortenExcess changes how long a device may stay above a limit. No session may
// be over its limit meanwhile.
func ShortenExcess(hooks []mqtt.Hook, d time.Duration) { hooks[0].(*guard).excess = d }

// ShortenLinger changes how soon after "on" a device is told "off". Nobody may be
// connected yet.
func ShortenLinger(c *Courier, d time.Duration) { c.targets.linger = d }

// DownWindow is downWindow.
const DownWindow = downWindow

// Sessions is how many sessions there are, in whatever state.
func Sessions(c *Courier) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.live) + len(c.pending) + len(c.people) + len(c.foreign)
}

// Waiting is how many hold or wait for the lock of an id.
func Waiting(hooks []mqtt.Hook, id string) int {
	l := hooks[0].(*guard).locks
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock := l.byID[id]; lock != nil {
		return lock.users
	}
	return 0
}
