package httpapi

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
)

// playerBody is an address that plays a stream. It names neither stream nor account.
type playerBody struct {
	Protocol  string    `json:"protocol"`
	URL       string    `json:"url"`
	Mode      string    `json:"mode"`
	ExpiresAt time.Time `json:"expires_at"`
}

// playStream gives an address that plays a device's stream. [contracts A.4]
func (a *api) playStream(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	// Before the body: a stranger learns nothing of it.
	if err := a.Media.Mine(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	var in struct {
		Protocol  string     `json:"protocol"`
		Mode      string     `json:"mode"`
		Start     *time.Time `json:"start"`
		End       *time.Time `json:"end"`
		ExpiresIn int64      `json:"expires_in"`
	}
	if err := r.decodeOptional(&in); err != nil {
		return answer{}, err
	}
	p := media.Playing{Protocol: in.Protocol, Mode: in.Mode, Life: seconds(in.ExpiresIn)}
	if in.Start != nil {
		p.Start = *in.Start
	}
	if in.End != nil {
		p.End = *in.End
	}
	return a.play(r, id, p)
}

// playLive is playStream of live HLS, for clients that only GET. [seed 000 2.15]
func (a *api) playLive(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	return a.play(r, id, media.Playing{})
}

func (a *api) play(r *request, id string, p media.Playing) (answer, error) {
	out, err := a.Media.Play(r.Context(), r.actor, id, p)
	if err != nil {
		return answer{}, err
	}
	return ok(playerBody{out.Protocol, out.URL.Reveal(), out.Mode, out.Expires.UTC().Truncate(time.Second)})
}

// downloadClip streams an MP4 file. What goes wrong before its first byte is an error as
// any other; after it the connection ends, so that half a file does not look whole.
// [contracts A.4]
func (a *api) downloadClip(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	if err := a.Media.Mine(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	from, err := q.moment("start")
	if err != nil {
		return answer{}, err
	}
	to, err := q.moment("end")
	if err != nil {
		return answer{}, err
	}
	body, err := a.Media.Clip(r.Context(), r.actor, id, from, to)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = body.Close() }() // it is read to its end, or given up
	chunk := make([]byte, 64<<10)
	n, err := body.Read(chunk)
	for n == 0 && err == nil {
		n, err = body.Read(chunk)
	}
	switch {
	case n > 0:
	case errors.Is(err, io.EOF):
		return answer{}, media.ErrNoMedia
	default:
		return answer{}, err
	}
	h := r.w.Header()
	h.Set("Content-Type", "video/mp4")
	h.Set("Content-Disposition", `attachment; filename="`+id[:8]+"-"+from.UTC().Format("20060102T150405Z")+`.mp4"`)
	if r.Method == http.MethodHead {
		return answered()
	}
	control := http.NewResponseController(r.w)
	for {
		// Fails on writers without a connection; then there is nothing to bound.
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if n > 0 {
			if _, werr := r.w.Write(chunk[:n]); werr != nil {
				return answered() // the client has gone
			}
			_ = control.Flush() // a writer that cannot is not a connection
		}
		if errors.Is(err, io.EOF) {
			return answered()
		}
		if err != nil {
			a.log.Warn("a clip ended early", "request_id", exchangeOf(r.Request).id, "error", err)
			panic(http.ErrAbortHandler)
		}
		n, err = body.Read(chunk)
	}
}

// watcherBody is a viewer whose address is signed.
type watcherBody struct {
	Mode       string    `json:"mode"` // url
	WSSURL     string    `json:"wss_url"`
	ClientID   string    `json:"client_id"`
	Region     string    `json:"region"`
	ICEServers []iceBody `json:"ice_servers"`
	ExpiresAt  time.Time `json:"expires_at"`
}

// signerBody is a viewer who signs for themselves.
type signerBody struct {
	Mode        string        `json:"mode"` // credentials
	ClientID    string        `json:"client_id"`
	Region      string        `json:"region"`
	ChannelARN  string        `json:"channel_arn"`
	Endpoints   endpointsBody `json:"endpoints"`
	Credentials keysBody      `json:"credentials"`
	ICEServers  []iceBody     `json:"ice_servers"`
	ExpiresAt   time.Time     `json:"expires_at"`
}

type endpointsBody struct {
	WSS   string `json:"wss"`
	HTTPS string `json:"https"`
}

type keysBody struct {
	AccessKeyID     string    `json:"accessKeyId"`
	SecretAccessKey string    `json:"secretAccessKey"`
	SessionToken    string    `json:"sessionToken"`
	Expiration      time.Time `json:"expiration"`
}

// iceBody is a STUN or TURN server, as a browser takes it. [WebRTC, RTCIceServer]
type iceBody struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username,omitempty"`
	Credential string   `json:"credential,omitempty"`
	TTL        int      `json:"ttl,omitempty"`
}

func newICEBody(s media.ICEServer) iceBody {
	return iceBody{s.URLs, s.Username.Reveal(), s.Credential.Reveal(), int(s.TTL / time.Second)}
}

// watch gives what a live view needs. The client id that an app names is not taken: two of
// the same would take each other's place. [contracts A.4]
func (a *api) watch(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	if err := a.Media.Mine(r.Context(), r.actor, id); err != nil {
		return answer{}, err
	}
	var in struct {
		ClientID string `json:"client_id"`
	}
	if err := r.decodeOptional(&in); err != nil {
		return answer{}, err
	}
	out, err := a.Media.Watch(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	ice, expires := render(out.ICE, newICEBody), out.Expires.UTC().Truncate(time.Second)
	if k := out.Keys; !k.None() {
		return ok(signerBody{
			"credentials", out.ClientID, out.Region, out.ChannelARN,
			endpointsBody{out.URL.Reveal(), out.HTTPSEndpoint},
			keysBody{k.AccessKeyID.Reveal(), k.SecretAccessKey.Reveal(), k.SessionToken.Reveal(), k.Expires.UTC()},
			ice, expires,
		})
	}
	return ok(watcherBody{"url", out.URL.Reveal(), out.ClientID, out.Region, ice, expires})
}

// openIDBody is a person at Amazon Cognito.
type openIDBody struct {
	IdentityID  string `json:"identity_id"`
	OpenIDToken string `json:"open_id_token"`
	ExpiresIn   int    `json:"expires_in"` // seconds
}

// identifyAtAWS gives a token of the identity pool. [contracts A.5]
func (a *api) identifyAtAWS(r *request) (answer, error) {
	id, err := r.deviceID()
	if err != nil {
		return answer{}, err
	}
	out, err := a.Media.Identify(r.Context(), r.actor, id)
	if err != nil {
		return answer{}, err
	}
	return ok(openIDBody{out.IdentityID, out.Token.Reveal(), int(out.Life / time.Second)})
}

// lendToDevice gives a device credentials of its own stream and channel, to whom MQTT
// cannot: its buffer is too small. The device proves itself by its client certificate, as
// at CONNECT. The answer is the one over MQTT. [contracts A.5]
func (a *api) lendToDevice(r *request) (answer, error) {
	actor, err := a.deviceActor(r)
	if err != nil {
		return answer{}, err
	}
	q, err := r.params()
	if err != nil {
		return answer{}, err
	}
	in := media.VendRequest{RequestID: actor.RequestID, Purpose: media.PurposeStream}
	if q.Has("purpose") {
		in.Purpose = q.Get("purpose")
	}
	if q.Has("request_id") {
		in.RequestID = q.Get("request_id")
	}
	out, err := a.Media.Lend(r.Context(), actor, in, 0)
	if err != nil {
		return answer{}, err
	}
	body, err := out.Wire()
	if err != nil {
		return answer{}, err
	}
	return ok(json.RawMessage(body))
}

// deviceActor is the device whose client certificate the connection has.
func (a *api) deviceActor(r *request) (registry.Actor, error) {
	var chain []*x509.Certificate
	if r.TLS != nil {
		chain = r.TLS.PeerCertificates
	}
	leaf, byCA := registry.ClientCertificate(chain, a.opts.DeviceCAs, a.opts.Now())
	if leaf == nil {
		return registry.Actor{}, errNoCertificate
	}
	who, err := a.Registry.Authenticate(r.Context(), registry.Login{DeviceID: leaf.Subject.CommonName, Certificate: leaf, ByCA: byCA})
	if err != nil {
		return registry.Actor{}, err
	}
	actor := r.actor
	actor.Kind, actor.ID, actor.ClientType = registry.ActorDevice, who.DeviceID, "device"
	exchangeOf(r.Request).actor = actor.String()
	return actor, a.limits.device(who.DeviceID)
}

var errNoCertificate = registry.E(registry.Unauthenticated, account.ErrInvalidToken.Code, "This route needs a device's client certificate, over HTTPS.")

// moment is a time parameter, which has to be there.
func (p params) moment(name string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, p.Get(name))
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, invalid(name + " must be an RFC 3339 time.")
	}
	return t, nil
}
