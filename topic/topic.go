// Package topic builds and parses every MQTT topic of the system. It is the only
// place that knows how a topic is spelled.
//
// A topic is {root}/{device_id}/{suffix}: the root is configuration
// ("opticworks" by default), the device id is 32 lower-case hex digits, and the
// suffix is one of the closed set of [Kind]s. Everything else is not a topic of
// ours: there is no case folding, no Unicode normalisation, no trimming and no
// empty level, so a look-alike never parses.
package topic

import (
	"strings"
)

// Kind is what a topic is for.
type Kind uint8

// The kinds of topics, in the order of the topic table in docs/mqtt.md.
const (
	Unknown Kind = iota
	Provision
	ProvisionResponse
	State
	Telemetry
	ConfigUpdate
	ConfigStatus
	OTATrigger
	OTAStatus
	DiagRequest
	DiagResponse
	Command // {root}/{id}/command/{type}; Topic.Command holds the type
	CommandResponse
	Claim
	ClaimResponse
	ClaimChallenge
	ClaimConfirm
	KVSCredentialsRequest
	KVSCredentialsResponse
	KVSConfigRequest
	KVSConfigResponse
	TargetsStream
	kinds
)

// Direction says who may publish to a kind of topic.
type Direction uint8

// The two directions. Only the device itself publishes FromDevice topics, only
// the server publishes ToDevice topics (and its word on presence, on state).
const (
	FromDevice Direction = iota + 1
	ToDevice
)

type row struct {
	suffix    string
	direction Direction
	people    bool // may a person who may read the device subscribe to it
	retained  bool // served from the registry to whoever subscribes
}

var table = [kinds]row{
	Provision:              {"provision", FromDevice, false, false},
	ProvisionResponse:      {"provision/response", ToDevice, false, false},
	State:                  {"state", FromDevice, true, true},
	Telemetry:              {"telemetry", FromDevice, true, false},
	ConfigUpdate:           {"config/update", ToDevice, false, false},
	ConfigStatus:           {"config/status", FromDevice, true, true},
	OTATrigger:             {"ota/trigger", ToDevice, false, false},
	OTAStatus:              {"ota/status", FromDevice, true, true},
	DiagRequest:            {"diag/request", ToDevice, false, false},
	DiagResponse:           {"diag/response", FromDevice, false, false},
	Command:                {"command/", ToDevice, false, false},
	CommandResponse:        {"command/response", FromDevice, true, false},
	Claim:                  {"claim", FromDevice, false, false},
	ClaimResponse:          {"claim/response", ToDevice, false, false},
	ClaimChallenge:         {"claim/challenge", ToDevice, false, false},
	ClaimConfirm:           {"claim/confirm", FromDevice, false, false},
	KVSCredentialsRequest:  {"kvs/credentials/request", FromDevice, false, false},
	KVSCredentialsResponse: {"kvs/credentials/response", ToDevice, false, false},
	KVSConfigRequest:       {"kvs/config/request", FromDevice, false, false},
	KVSConfigResponse:      {"kvs/config/response", ToDevice, false, false},
	TargetsStream:          {"targets/stream", FromDevice, true, false},
}

// String is the suffix of the kind as the topic table spells it; "command/+"
// for [Command].
func (k Kind) String() string {
	switch {
	case k == Command:
		return "command/+"
	case k > Unknown && k < kinds:
		return table[k].suffix
	}
	return "unknown"
}

// Direction says who publishes topics of this kind; 0 for Unknown.
func (k Kind) Direction() Direction {
	if k >= kinds {
		return 0
	}
	return table[k].direction
}

// People reports whether a person who may read the device may subscribe to
// topics of this kind.
func (k Kind) People() bool { return k < kinds && table[k].people }

// Retained reports whether the registry keeps the last message of this kind for
// whoever subscribes.
func (k Kind) Retained() bool { return k < kinds && table[k].retained }

// Kinds lists every kind but Unknown.
func Kinds() []Kind {
	all := make([]Kind, 0, kinds-1)
	for k := Unknown + 1; k < kinds; k++ {
		all = append(all, k)
	}
	return all
}

// DeviceIDLen is the length of a device id in its text form.
const DeviceIDLen = 32

// ValidDeviceID reports whether s is 32 lower-case hex digits.
func ValidDeviceID(s string) bool {
	if len(s) != DeviceIDLen {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Topic is one parsed topic name.
type Topic struct {
	DeviceID string
	Kind     Kind
	Command  string // the command type, only for Kind Command
}

// Root is the first levels of every topic, without a trailing slash.
type Root string

// Valid reports whether r can be a root: 1 to 64 bytes of letters, digits,
// "-", "_" or "." in levels that are not empty, and not a "$" topic.
func (r Root) Valid() bool {
	if len(r) == 0 || len(r) > 64 {
		return false
	}
	for _, level := range strings.Split(string(r), "/") {
		if level == "" || !validWord(level, true) {
			return false
		}
	}
	return true
}

// Build spells the topic of a kind; for Command use [Root.BuildCommand].
func (r Root) Build(deviceID string, k Kind) string {
	return string(r) + "/" + deviceID + "/" + table[k].suffix
}

// BuildCommand spells the topic of a command of the given type.
func (r Root) BuildCommand(deviceID, commandType string) string {
	return r.Build(deviceID, Command) + commandType
}

// Parse reads a topic name. ok is false for anything that is not exactly a topic
// of the table, wildcards included.
func (r Root) Parse(name string) (t Topic, ok bool) {
	id, suffix, ok := r.split(name)
	if !ok || !ValidDeviceID(id) {
		return Topic{}, false
	}
	k, command := parseSuffix(suffix)
	if k == Unknown {
		return Topic{}, false
	}
	return Topic{DeviceID: id, Kind: k, Command: command}, true
}

// split cuts {root}/{second level}/{rest}.
func (r Root) split(name string) (second, rest string, ok bool) {
	n := len(r)
	if len(name) <= n+1 || name[n] != '/' || name[:n] != string(r) {
		return "", "", false
	}
	return strings.Cut(name[n+1:], "/")
}

func parseSuffix(suffix string) (Kind, string) {
	switch suffix { // a switch on strings is a binary search; the hot kinds need no map
	case "state":
		return State, ""
	case "telemetry":
		return Telemetry, ""
	case "provision":
		return Provision, ""
	case "provision/response":
		return ProvisionResponse, ""
	case "config/update":
		return ConfigUpdate, ""
	case "config/status":
		return ConfigStatus, ""
	case "ota/trigger":
		return OTATrigger, ""
	case "ota/status":
		return OTAStatus, ""
	case "diag/request":
		return DiagRequest, ""
	case "diag/response":
		return DiagResponse, ""
	case "command/response":
		return CommandResponse, ""
	case "claim":
		return Claim, ""
	case "claim/response":
		return ClaimResponse, ""
	case "claim/challenge":
		return ClaimChallenge, ""
	case "claim/confirm":
		return ClaimConfirm, ""
	case "kvs/credentials/request":
		return KVSCredentialsRequest, ""
	case "kvs/credentials/response":
		return KVSCredentialsResponse, ""
	case "kvs/config/request":
		return KVSConfigRequest, ""
	case "kvs/config/response":
		return KVSConfigResponse, ""
	case "targets/stream":
		return TargetsStream, ""
	}
	if command, ok := strings.CutPrefix(suffix, "command/"); ok && ValidCommandType(command) {
		return Command, command
	}
	return Unknown, ""
}

// ValidCommandType reports whether s can be the last level of a command topic:
// 1 to 32 bytes of lower-case letters, digits and "-", and not "response".
func ValidCommandType(s string) bool {
	return len(s) > 0 && len(s) <= 32 && s != "response" && validWord(s, false)
}

func validWord(s string, root bool) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
		case root && (c >= 'A' && c <= 'Z' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return true
}
