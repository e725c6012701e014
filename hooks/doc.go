// Package hooks is the MQTT face of the cloud: it turns what mochi's hooks are
// told into calls of package registry, and the registry's word into packets.
//
// There is exactly one hook, [guard], because mochi copies a packet of about a
// kilobyte through every layer, and because authentication and access control are
// an OR over hooks: a second hook could allow what the first forbids. [All]
// returns it; [Courier] is its other half, the table of live sessions through
// which the registry reaches devices and people.
//
// Layout, by noun: guard.go dispatches mochi's calls; session.go and idlock.go are
// a connection's record and the lock on its client id; connect.go, people.go and
// end.go are the beginning and the end of a session; acl.go says who may do what;
// publish.go, provision.go, state.go, report.go and will.go are what devices say;
// subscribe.go and retained.go serve subscriptions; targets.go asks devices for live
// positions while somebody looks; packetid.go keeps the two
// directions' packet ids and windows apart; handover.go gives a resumed session what
// came for the one before; recover.go, limit.go and metrics.go are what their names say.
//
// Locks, in the order in which they may be taken: the lock of a client id
// (idlock.go), targets.mu, Courier.mu, person.mu, then those of one session (serving, timers,
// outbox, window, inheritance) and mochi's own. Only the first is held over a call of the
// registry. Goroutines of our own: one for a reader's wildcard filters while their
// retained messages are served, one for what a resumed session has waiting, until
// it is written, one for a person whose access changed while it is read.
package hooks
