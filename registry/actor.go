package registry

import (
	"slices"
	"strings"
	"time"
)

// ActorKind is what kind of party acts.
type ActorKind string

// The kinds of actors.
const (
	ActorUser    ActorKind = "user"
	ActorAdmin   ActorKind = "admin"   // platform administrator
	ActorSupport ActorKind = "support" // support staff
	ActorService ActorKind = "service" // service account: factory, back end
	ActorDevice  ActorKind = "device"
	ActorSystem  ActorKind = "system" // the program itself
)

// The scopes a token may carry.
const (
	ScopeDeviceRead      = "device:read"
	ScopeDeviceControl   = "device:control"
	ScopeDeviceConfigure = "device:configure"
	ScopeConfigWrite     = "config:write"
	ScopeDeviceEnroll    = "device:enroll" // of service accounts: enrol and import
	ScopeOrderWrite      = "order:write"   // of service accounts: order lines
	ScopeSIM             = "admin:sim"     // of service accounts, and granted to administrators: the numbers of SIMs in full
)

// Actor is who acts, and from where; it goes into every audit row.
type Actor struct {
	Kind       ActorKind
	ID         string // user id, administrator id, service account id, device id; "" for the system
	Email      string // for people, as their token says; not written into audit
	Scopes     []string
	SessionID  string
	RequestID  string
	IP         string
	UserAgent  string
	ClientType string    // admin-web, miniapp, app, service, device, cli
	ProvedAt   time.Time // when they last proved who they are; zero: no person did
}

// System is the program itself as an actor.
func System() Actor { return Actor{Kind: ActorSystem} }

// String names the actor in an audit row: "user:01J...", "device:a81e...", "system".
func (a Actor) String() string {
	if a.ID == "" {
		return string(a.Kind)
	}
	return string(a.Kind) + ":" + a.ID
}

// parseActor is the opposite of String.
func parseActor(s string) (Actor, bool) {
	kind, id, ok := strings.Cut(s, ":")
	return Actor{Kind: ActorKind(kind), ID: id}, ok && id != ""
}

// Has reports whether the actor's token carries a scope.
func (a Actor) Has(scope string) bool { return slices.Contains(a.Scopes, scope) }
