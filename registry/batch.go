package registry

import (
	"time"

	"github.com/opticworks/devicecloud/topic"
)

// Batch is what one group commit writes.
type Batch struct {
	States      []*StateWrite
	Reports     []*ReportWrite
	Work        []*Work
	Disconnects []*Disconnect
	Claims      []*Claim
}

// Len is the number of items.
func (b *Batch) Len() int {
	return len(b.States) + len(b.Reports) + len(b.Work) + len(b.Disconnects) + len(b.Claims)
}

// StateWrite replaces a device's latest state under its session's fence, and moves
// reported_at and last_seen. Absent optional fields keep what is stored.
type StateWrite struct {
	DeviceNo int64
	DeviceID string // for listeners; stores go by DeviceNo
	Epoch    int64
	At       time.Time
	State    State
	Firmware bool // State.FirmwareVersion differs from the devices row: write it there too

	Stale bool // result: the epoch is no longer the session's; nothing was written
}

// ReportWrite keeps a message whole, as the latest of its kind and as an event,
// under its session's fence, and moves last_seen.
type ReportWrite struct {
	DeviceNo int64
	Epoch    int64
	At       time.Time
	Kind     topic.Kind
	Payload  string
	EventID  int64 // 0: no event
	Keep     int   // how many events of this kind the device keeps

	Stale bool // result
}

// Work is any other write that rides on the group commit, in a savepoint of its
// own: an error of Do undoes Do's writes alone and is its result. Do may run again after
// a serialisation failure, so it has no side effects but its writes.
type Work struct {
	Do func(Tx) error
	// Changes is what listeners hear of it. It is called on the group commit's writer
	// after the commit, only when somebody listens, and must not block; nil: nothing.
	Changes func() []*Change

	Err error // result
}

// Disconnect ends a connection under its fence: status, reason, history row.
type Disconnect struct {
	DeviceNo int64
	DeviceID string // for listeners; stores go by DeviceNo
	Epoch    int64
	At       time.Time
	LastSeen time.Time
	Reason   Reason
	EventID  int64 // of the event that tells of it; 0: none does
	Tell     bool  // the Row is wanted

	Changed bool // result: this was the device's live connection
	Row     Row  // result when Changed and Tell: what is true now
}

// Claim takes the next epoch for a new connection. It re-checks that the device
// is enabled and the credential live, and ends the connection before it, when the
// row still says online or unknown, with a history row of reason Takeover (or
// NodeLost when its boot is over).
type Claim struct {
	DeviceNo     int64
	DeviceID     string // for listeners; stores go by DeviceNo
	CredentialID int64  // 0: by a certificate of the device CA, only the device is checked
	ConnectionID int64
	NodeID       string
	BootID       int64
	Remote       string
	Protocol     int
	At           time.Time
	EventID      int64 // of the event that tells of it; 0: none does
	Tell         bool  // State and ReportedAt of the Row are wanted

	Refused bool // result: disabled, removed, or the credential is gone
	Began   bool // result: the device was offline before
	Row     Row  // result unless Refused: what is true now, with the new epoch
}

// Row is a device's presence row after a write, for the announcement.
type Row struct {
	Presence        Presence
	State           State
	FirmwareVersion string
	ReportedAt      time.Time
}
