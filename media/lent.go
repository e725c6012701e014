package media

import "time"

// Holder is for whom credentials are asked for at AWS; it names their session there.
type Holder struct {
	UserID   string // "" for a device
	DeviceID string
}

// SessionName is the name of the session at AWS, which its trail shows: letters and
// digits alone. The end of a person's id is what differs between people: the beginning
// is the time.
func (h Holder) SessionName() string {
	device := h.DeviceID[:min(8, len(h.DeviceID))]
	if h.UserID == "" {
		return "d-" + device
	}
	id := plain(h.UserID)
	return "u-" + id[max(0, len(id)-8):] + "-d-" + device
}

// plain is a text without what a session's name may not hold.
func plain(s string) string {
	var b []byte
	for i := range len(s) {
		if c := s[i]; c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b = append(b, c)
		}
	}
	return string(b)
}

// Keys are temporary credentials of AWS.
type Keys struct {
	AccessKeyID     Secret
	SecretAccessKey Secret
	SessionToken    Secret
	Expires         time.Time
}

// None reports whether there are none.
func (k Keys) None() bool { return k.AccessKeyID == "" }

// Playing is what a person wants to play of a stream.
type Playing struct {
	Protocol string        // hls or dash
	Mode     string        // live, live_replay or on_demand
	Start    time.Time     // of live_replay and on_demand
	End      time.Time     // of on_demand; optional of live_replay
	Life     time.Duration // of the address
}

// Viewer is what a person watches a signalling channel with.
type Viewer struct {
	URL     Secret // wss://..., signed; of one that signs for itself the bare endpoint
	ICE     []ICEServer
	Expires time.Time

	// Only of a viewer who signs for themselves. Keys is no pointer: package fmt, asked
	// for %s of one in a struct, would show what it points to.
	Keys          Keys
	ChannelARN    string
	HTTPSEndpoint string
}

// ICEServer is a STUN or TURN server. [WebRTC, RTCIceServer]
type ICEServer struct {
	URLs       []string
	Username   Secret
	Credential Secret
	TTL        time.Duration
}

// Loan is what a device gets of AWS.
type Loan struct {
	Keys       Keys
	ChannelARN string // "" without a channel
}

// Identified is a person at Amazon Cognito.
type Identified struct {
	IdentityID string
	Token      Secret
	Life       time.Duration
}
