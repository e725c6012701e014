package registry

import (
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Courier is the one thing the domain needs from MQTT. Its methods do not block
// on the network.
type Courier interface {
	// Deliver writes one QoS 1 message to the device's live session, if it has
	// subscribed to the topic. ErrOffline when there is no session here that would
	// take it.
	Deliver(deviceID string, k topic.Kind, payload []byte) error
	// DeliverCommand writes a command to the device's live session, if that is the
	// connection of the epoch and has subscribed to commands of the type. Its
	// acknowledgement comes as CommandReceived. Errors: ErrOffline, NotFound when the
	// type is not among those that it subscribed to, RateLimited when too many messages
	// are unacknowledged, TooLarge.
	DeliverCommand(deviceID string, epoch int64, c CommandDelivery) error
	// Announce hands people's subscriptions a message of the server's own, as
	// retained as the kind is.
	Announce(deviceID string, k topic.Kind, payload []byte)
	// Watched reports whether anybody might be handed an announcement.
	Watched() bool
	// Disconnect ends the device's session, and one that is just being accepted;
	// it reports whether there was one.
	Disconnect(deviceID string, reason Reason) bool
	// ExpireSession ends the device's session at the given time if it was opened
	// with this credential.
	ExpireSession(deviceID string, credentialID int64, at time.Time)
	// AccessChanged makes the sessions of a person ask again which devices they
	// may read, and ends deliveries of those they may not.
	AccessChanged(userID string)
	// Sessions lists the devices that are connected here, sessions that are just
	// being accepted or ended left out.
	Sessions() []Live
}
