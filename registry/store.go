package registry

import (
	"context"
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Store is what the domain needs of a database. Both implementations pass one
// conformance suite. Methods return ErrUnavailable (wrapped) for anything that a
// retry may heal.
type Store interface {
	// View runs f on one read-only snapshot. Writes through its Tx fail.
	View(ctx context.Context, f func(Tx) error) error
	// InTx runs f in one durable write transaction: a nil error means committed
	// and on disk. f may run again after a serialisation failure, so it has no
	// side effects but its writes. An error of f rolls back and is returned as is.
	InTx(ctx context.Context, f func(Tx) error) error
	// Commit writes a batch as one durable transaction and fills in each item's
	// result. An error means that nothing of it is committed. The order is:
	// states, reports, events, work, disconnects, claims.
	Commit(ctx context.Context, b *Batch) error
}

// Tx is one transaction over every table of the domain. A transaction that spans
// domains is opened by the higher one and handed down.
type Tx interface {
	DeviceTx
	CredentialTx
	PresenceTx
	ReportTx
	OwnershipTx
	ShareTx
	InvitationTx
	ClaimTx
	EntitlementTx
	OrderTx
	AuditTx
	OutboxTx
	CommandTx
	ConfigTx
	People
}

// DeviceTx reads and writes identity.
type DeviceTx interface {
	// InsertDevice writes the device and its empty presence row and returns its
	// number; ErrAlreadyEnrolled when the id or the MAC is taken.
	InsertDevice(ctx context.Context, d NewDevice) (no int64, err error)
	// Device reads one device; ErrDeviceNotFound.
	Device(ctx context.Context, id string) (Device, error)
	// DeviceByMAC reads one device; ErrDeviceNotFound.
	DeviceByMAC(ctx context.Context, mac MAC) (Device, error)
	// Devices lists all devices by filter, in order of number, and says how many
	// match in all.
	Devices(ctx context.Context, f DeviceFilter) (list []AdminDevice, total int, err error)
	// SetDeviceName renames.
	SetDeviceName(ctx context.Context, no int64, name string, at time.Time) error
	// SetDeviceMAC fills in the MAC of a self-enrolled device, only while it has
	// none; changed says whether it did. ErrAlreadyEnrolled when the MAC is taken.
	SetDeviceMAC(ctx context.Context, no int64, mac MAC, at time.Time) (changed bool, err error)
	// SetDeviceHardware fills in what a device is built as, only while nobody has said;
	// changed says whether it did.
	SetDeviceHardware(ctx context.Context, no int64, hardware string, at time.Time) (changed bool, err error)
	// SetDeviceDisabled disables (at) or enables (zero time); changed says whether
	// it was otherwise before.
	SetDeviceDisabled(ctx context.Context, no int64, disabledAt, at time.Time) (changed bool, err error)
	// SetProvisioned records a provisioning under the session's fence: sets
	// firmware_version, max_packet_size (0: null), provisioned_at, and first_seen if
	// empty. stale means that
	// the epoch is no longer the session's and nothing changed.
	SetProvisioned(ctx context.Context, no, epoch int64, firmware string, maxPacket int, at time.Time) (stale bool, err error)
	// SetReset records the report of a factory reset under the session's fence; first
	// says that it is another one than the last.
	SetReset(ctx context.Context, no, epoch int64, report []byte) (first bool, err error)
	// SetFirstSeen records the first connection, only while there is none; changed
	// says whether it did.
	SetFirstSeen(ctx context.Context, no int64, at time.Time) (changed bool, err error)
	// DeleteDevice removes the device and all its rows but audit.
	DeleteDevice(ctx context.Context, no int64) error
	// Stats counts the fleet; daily activity since the given time.
	Stats(ctx context.Context, since time.Time) (Stats, error)
	// CountDevices is the number of devices, and of those online.
	CountDevices(ctx context.Context) (total, online int, err error)
}

// CredentialTx reads and writes credentials.
type CredentialTx interface {
	// Credentialed reads what CONNECT needs in one query, expired credentials
	// included; ErrDeviceNotFound.
	Credentialed(ctx context.Context, deviceID string) (Credentialed, error)
	// PutCredential writes a credential into its slot, replacing what is there.
	PutCredential(ctx context.Context, deviceNo int64, c Credential) error
	// ExpireCredential sets the end of a credential.
	ExpireCredential(ctx context.Context, credentialID int64, at time.Time) error
	// Credentials lists a device's credentials, by slot.
	Credentials(ctx context.Context, deviceNo int64) ([]Credential, error)
}

// PresenceTx reads presence and settles what a crash left behind. Claims and
// disconnects go through Store.Commit.
type PresenceTx interface {
	// Beat records that a node is alive. It always changes a row, so that it fails
	// when nothing can be written.
	Beat(ctx context.Context, nodeID string, bootID int64, at time.Time) error
	// LivePresence lists the devices whose status is online at the node.
	LivePresence(ctx context.Context, nodeID string) ([]Live, error)
	// SettleBoot turns every row that is online at the node under another boot to
	// unknown, reason NodeLost, and records the connection's end; it returns how many.
	SettleBoot(ctx context.Context, nodeID string, bootID int64, at time.Time) (int, error)
	// ExpireUnknown turns rows that have been unknown at the node since before
	// `before` to offline, and lists them.
	ExpireUnknown(ctx context.Context, nodeID string, before, at time.Time) ([]Live, error)
	// Connections lists ended connections of a device, newest first.
	Connections(ctx context.Context, deviceNo, before int64, limit int) ([]Connection, error)
}

// ReportTx reads what was kept of a device's messages.
type ReportTx interface {
	// Report reads the latest report of a kind; ok is false when there is none.
	Report(ctx context.Context, deviceNo int64, k topic.Kind) (r Report, ok bool, err error)
	// Reports reads the latest report of every kind.
	Reports(ctx context.Context, deviceNo int64) (map[topic.Kind]Report, error)
	// Events lists a device's events, newest first; typ "" is every type.
	Events(ctx context.Context, deviceNo int64, typ string, before int64, limit int) ([]Event, error)
	// InsertEvent writes an event and keeps at most `keep` of its type for the
	// device.
	InsertEvent(ctx context.Context, e Event, keep int) error
	// DeletePersonal deletes what a device kept of its people's time with it: reports,
	// events, and the connections that have ended.
	DeletePersonal(ctx context.Context, deviceNo int64) error
	// DeleteHistory deletes at most limit rows of connections and events that
	// ended before the given time; it returns how many.
	DeleteHistory(ctx context.Context, before time.Time, limit int) (int, error)
}

// OwnershipTx reads and writes device_ownership.
type OwnershipTx interface {
	// InsertOwnership writes a row; ErrOwnedByOther when it would make a second
	// owner; no error and changed=false when the person has a row already.
	InsertOwnership(ctx context.Context, o Ownership) (changed bool, err error)
	// InsertOwner is InsertOwnership of an owner who may own fewer than limit devices
	// before it; else ErrDeviceLimit. Two at once cannot pass the limit.
	InsertOwner(ctx context.Context, o Ownership, limit int) (changed bool, err error)
	// DeleteOwnerships removes every row of a device and returns whose they were.
	DeleteOwnerships(ctx context.Context, deviceNo int64) (userIDs []string, err error)
	// Ownerships lists a device's rows, the owner first; shares that have not begun or
	// have ended included.
	Ownerships(ctx context.Context, deviceNo int64) ([]Ownership, error)
	// OwnedDevice reads a device and the person's role on it at a time in one query;
	// ErrDeviceNotFound when there is no device or no row that holds then.
	OwnedDevice(ctx context.Context, userID, deviceID string, at time.Time) (OwnedDevice, error)
	// OwnedDevices lists the devices that a person has a role on at a time (zero:
	// whenever) in order of device number, after the given number.
	OwnedDevices(ctx context.Context, userID string, at time.Time, after int64, limit int) ([]OwnedDevice, error)
	// ReadableIDs lists the ids of the devices that a person has any role on at a time.
	ReadableIDs(ctx context.Context, userID string, at time.Time) ([]string, error)
	// SetEverOwned marks a device as once owned.
	SetEverOwned(ctx context.Context, deviceNo int64) error
}

// ShareTx writes the rows of device_ownership that are no owner's; none of its methods
// touches an owner's.
type ShareTx interface {
	// PutShare writes a person's share, in place of the one they have; changed=false
	// when the person owns the device.
	PutShare(ctx context.Context, o Ownership) (changed bool, err error)
	// DeleteShare removes a person's share.
	DeleteShare(ctx context.Context, deviceNo int64, userID string) (changed bool, err error)
	// CrossedShares lists the shares that began or ended after a time and until
	// another.
	CrossedShares(ctx context.Context, after, until time.Time) ([]Crossing, error)
	// NextCrossing is when the next share after a time begins or ends, and when the
	// first of those ended that are still kept; zero when there is none.
	NextCrossing(ctx context.Context, after time.Time) (next, firstEnded time.Time, err error)
	// DeleteEndedShares deletes at most limit shares that ended before the given time,
	// and returns them.
	DeleteEndedShares(ctx context.Context, before time.Time, limit int) ([]Crossing, error)
}

// InvitationTx reads and writes open invitations.
type InvitationTx interface {
	// PutInvitation writes an invitation, in place of an open one to the same e-mail;
	// a transfer in place of any other transfer of the device. put is false when it
	// is a share and the device has `limit` people beside the invited one: shares
	// that have not ended, and open invitations to share.
	PutInvitation(ctx context.Context, i Invitation, limit int) (put bool, err error)
	// Invitation reads an invitation to an e-mail that is open at a time;
	// ErrInvitationNotFound.
	Invitation(ctx context.Context, id int64, email string, at time.Time) (Invitation, error)
	// InvitationsTo lists the invitations to an e-mail that are open at a time, newest
	// first, below the given id (0: from the top).
	InvitationsTo(ctx context.Context, email string, at time.Time, before int64, limit int) ([]Invitation, error)
	// InvitationsOf lists a device's invitations that are open at a time, oldest first.
	InvitationsOf(ctx context.Context, deviceNo int64, at time.Time) ([]Invitation, error)
	// InvitationsToMail lists open invitations whose mail is due, the longest due first.
	InvitationsToMail(ctx context.Context, now time.Time, limit int) ([]Invitation, error)
	// SetInvitationMail changes when an invitation's mail is to be sent (zero: never),
	// only while it is the given time; changed says whether it was.
	SetInvitationMail(ctx context.Context, id int64, from, to time.Time) (changed bool, err error)
	// DeleteInvitation removes an invitation; changed says whether it was there.
	DeleteInvitation(ctx context.Context, id int64) (changed bool, err error)
	// DeleteInvitations removes every invitation of a device.
	DeleteInvitations(ctx context.Context, deviceNo int64) error
	// DeleteExpiredInvitations deletes at most limit invitations that expired before
	// the given time; it returns how many.
	DeleteExpiredInvitations(ctx context.Context, before time.Time, limit int) (int, error)
}

// ClaimTx reads and writes claims that wait for their device, and counts failed tries.
type ClaimTx interface {
	// ClaimSecretHash is the SHA-256 of the secret on a device's label; nil when none
	// is known.
	ClaimSecretHash(ctx context.Context, deviceNo int64) ([]byte, error)
	// InsertPairing writes a claim that waits; put is false when the person has limit
	// that wait and have not expired. Two at once cannot pass the limit.
	InsertPairing(ctx context.Context, p Pairing, limit int) (put bool, err error)
	// Pairing reads a claim; ErrClaimNotFound.
	Pairing(ctx context.Context, id string) (Pairing, error)
	// PairingByHash reads a claim by its code or challenge; ErrClaimNotFound.
	PairingByHash(ctx context.Context, hash []byte) (Pairing, error)
	// SettlePairing ends a claim that waits; changed says whether it did wait.
	SettlePairing(ctx context.Context, id string, status ClaimStatus, deviceNo int64, why string) (changed bool, err error)
	// DeletePairings removes the claims that name a device.
	DeletePairings(ctx context.Context, deviceNo int64) error
	// DeleteClaims deletes at most limit rows of claims and tries that were over before
	// the given time; it returns how many.
	DeleteClaims(ctx context.Context, before time.Time, limit int) (int, error)
	// InsertTry records a failed try.
	InsertTry(ctx context.Context, id int64, subject string, at time.Time) error
	// CountTries counts a subject's failed tries since a time, and says when the first
	// of them was.
	CountTries(ctx context.Context, subject string, since time.Time) (n int, oldest time.Time, err error)
}

// EntitlementTx reads and writes what devices are entitled to.
type EntitlementTx interface {
	// InsertEntitlement writes a row; changed is false for a second trial of the same
	// capability.
	InsertEntitlement(ctx context.Context, e Entitlement) (changed bool, err error)
	// Entitlements lists a device's rows that have not ended at a time and do not rest,
	// oldest first.
	Entitlements(ctx context.Context, deviceNo int64, at time.Time) ([]Entitlement, error)
	// Entitled reports whether a row for a capability holds at a time.
	Entitled(ctx context.Context, deviceNo int64, c Capability, at time.Time) (bool, error)
	// DeleteGrants removes the grants of a capability; it returns how many.
	DeleteGrants(ctx context.Context, deviceNo int64, c Capability) (int, error)
}

// OrderTx reads and writes order lines.
type OrderTx interface {
	// InsertOrder writes a line. The same line again is created=false; the same
	// key with another e-mail is ErrOrderExists. A repeated line that names a
	// shipping date fills in a missing one.
	InsertOrder(ctx context.Context, o Order) (created bool, err error)
	// OpenOrder reads the oldest unlinked, shipped line of a MAC; ok is false when
	// there is none.
	OpenOrder(ctx context.Context, mac MAC) (o Order, ok bool, err error)
	// OpenOrdersFor reads the unlinked, shipped lines of an e-mail.
	OpenOrdersFor(ctx context.Context, email string) ([]Order, error)
	// LinkOrder marks a line as linked, only while it is not; changed says whether
	// it did.
	LinkOrder(ctx context.Context, orderID string, mac MAC, userID string, at time.Time) (changed bool, err error)
}

// AuditTx reads and writes the audit trail.
type AuditTx interface {
	// InsertAudit writes one row in the transaction of the change.
	InsertAudit(ctx context.Context, e AuditEvent) error
	// Audit reads the trail, newest first.
	Audit(ctx context.Context, f AuditFilter) ([]AuditEvent, error)
	// DeleteAudit deletes at most limit rows from before the given time.
	DeleteAudit(ctx context.Context, before time.Time, limit int) (int, error)
}

// CommandTx reads and writes commands.
type CommandTx interface {
	// InsertCommand writes a command; created is false when the issuer has used the
	// request id for the device before.
	InsertCommand(ctx context.Context, c Command) (created bool, err error)
	// Command reads one command of a device; ErrCommandNotFound.
	Command(ctx context.Context, deviceNo int64, commandID string) (Command, error)
	// CommandByRequest finds a command by what its issuer called it.
	CommandByRequest(ctx context.Context, deviceNo int64, issuer, requestID string) (c Command, ok bool, err error)
	// Commands lists a device's commands, newest first.
	Commands(ctx context.Context, deviceNo, before int64, limit int) ([]Command, error)
	// OpenCommands lists a device's commands that are not final, oldest first.
	OpenCommands(ctx context.Context, deviceNo int64) ([]Command, error)
	// DueCommands lists the commands whose timer has run out, of every device.
	DueCommands(ctx context.Context, at time.Time, limit int) ([]Command, error)
	// AdvanceCommand writes what changes in a command's life, only while its status is
	// still from.
	AdvanceCommand(ctx context.Context, c Command, from CommandStatus) (changed bool, err error)
	// SetCommandLate records the first answer after the end; changed says whether it
	// was the first.
	SetCommandLate(ctx context.Context, commandNo int64, at time.Time) (changed bool, err error)
	// CommandUnsupported reports whether the device has rejected a type of command as
	// unknown to this firmware.
	CommandUnsupported(ctx context.Context, deviceNo int64, commandType, firmware string) (bool, error)
	// DeleteCommands removes every command of a device.
	DeleteCommands(ctx context.Context, deviceNo int64) error
	// DeleteFinishedCommands deletes at most limit commands that ended before the given
	// time; it returns how many.
	DeleteFinishedCommands(ctx context.Context, before time.Time, limit int) (int, error)
	// TakeCommandToken takes a token of a bucket that gets one each interval and holds
	// at most burst. wait is 0, or how long until there is one: then none was taken.
	TakeCommandToken(ctx context.Context, bucket string, at time.Time, interval time.Duration, burst int) (wait time.Duration, err error)
	// DeleteCommandRates deletes at most limit buckets that are full.
	DeleteCommandRates(ctx context.Context, at time.Time, limit int) (int, error)
}

// ConfigTx reads and writes what is wanted of devices.
type ConfigTx interface {
	// Config reads a device's configuration; ok is false when there is none.
	Config(ctx context.Context, deviceNo int64) (c Config, ok bool, err error)
	// PutConfig writes a configuration, only while the version is still the one that it
	// replaces (0: there is none).
	PutConfig(ctx context.Context, deviceNo int64, c Config, replaces int64) (changed bool, err error)
	// DeleteConfig removes a device's configuration.
	DeleteConfig(ctx context.Context, deviceNo int64) error
}

// People is what the domain of devices asks the domain of people.
type People interface {
	// UserByVerifiedEmail finds the person whose verified, normalised e-mail this
	// is; ok is false when there is none, or it is disabled.
	UserByVerifiedEmail(ctx context.Context, email string) (userID string, ok bool, err error)
	// VerifiedEmail is a person's verified e-mail; "" when there is none.
	VerifiedEmail(ctx context.Context, userID string) (email string, err error)
	// ActorEnabled reports whether a person, an administrator or a service account is
	// there and not disabled.
	ActorEnabled(ctx context.Context, kind ActorKind, id string) (bool, error)
}
