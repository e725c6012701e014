package media

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/opticworks/devicecloud/registry"
)

// The protocols and the modes of playback.
const (
	HLS  = "hls"
	DASH = "dash"

	Live       = "live"
	LiveReplay = "live_replay" // from a time on until now, and then live
	OnDemand   = "on_demand"
)

// The limits of playback. [contracts A.4]
const (
	minLife     = 300 * time.Second // of an address; AWS gives no shorter one
	maxLife     = time.Hour
	maxPlayback = 24 * time.Hour // of one on_demand session
	maxClip     = 300 * time.Second
	// maxClips is how many clips one person may receive at once from this node.
	maxClips = 2
)

// Player is an address that plays a stream.
type Player struct {
	Protocol string
	Mode     string
	URL      Secret
	Expires  time.Time
}

// judge fills in what a wish leaves out and refuses what cannot be.
func (p *Playing) judge(now time.Time) error {
	if p.Protocol == "" {
		p.Protocol = HLS
	}
	if p.Mode == "" {
		p.Mode = Live
	}
	invalid := func(message string) error {
		return registry.E(registry.Invalid, registry.ErrInvalidRequest.Code, message)
	}
	switch {
	case p.Protocol != HLS && p.Protocol != DASH:
		return invalid("protocol must be hls or dash.")
	case p.Mode != Live && p.Mode != LiveReplay && p.Mode != OnDemand:
		return invalid("mode must be live, live_replay or on_demand.")
	case p.Mode == Live && !(p.Start.IsZero() && p.End.IsZero()):
		return invalid("live has no start and no end.")
	case p.Mode != Live && p.Start.IsZero():
		return invalid("start is required for " + p.Mode + ".")
	case p.Mode == OnDemand && p.End.IsZero():
		return invalid("end is required for on_demand.")
	case !p.End.IsZero() && !p.End.After(p.Start), p.Start.After(now),
		!p.End.IsZero() && p.End.Sub(p.Start) > maxPlayback:
		return ErrRange
	}
	p.Life = min(max(p.Life, minLife), maxLife)
	return nil
}

// Play gives a person an address that plays a device's stream, for p.Life, which becomes
// 5 minutes to an hour. Live needs CanLiveView, the past CanCloudPlayback. Errors:
// those of [Service.Admit], Invalid, those of [Cloud].
func (s *Service) Play(ctx context.Context, a registry.Actor, deviceID string, p Playing) (Player, error) {
	if err := s.Mine(ctx, a, deviceID); err != nil {
		return Player{}, err
	}
	if err := p.judge(s.now()); err != nil {
		return Player{}, err
	}
	c := registry.CanLiveView
	if p.Mode != Live {
		c = registry.CanCloudPlayback
	}
	w := Want{Feature: Playback, From: p.Start}
	in, err := s.Admit(ctx, a, deviceID, c, w)
	if err != nil {
		return Player{}, err
	}
	h := Holder{UserID: a.ID, DeviceID: deviceID}
	address, expires, err := s.opts.Cloud.Play(ctx, h, in.Video, p)
	if err != nil {
		return Player{}, err
	}
	err = s.vended(ctx, a, deviceID, c, w, h, expires, map[string]any{"protocol": p.Protocol, "mode": p.Mode}, nil)
	if err != nil {
		return Player{}, err
	}
	return Player{p.Protocol, p.Mode, address, expires}, nil
}

// vended records that something was given, and looks again whether it may be: who lost
// their access while AWS was asked gets nothing, and who loses it after that is seen by
// more, which writes in the same transaction.
func (s *Service) vended(ctx context.Context, a registry.Actor, deviceID string, c registry.Capability, w Want, h Holder, expires time.Time, data map[string]any, more func(Tx, Admission) error) error {
	data["capability"], data["user_id"], data["session"], data["expires_at"] = c.String(), a.ID, h.SessionName(), expires.UTC().Format(time.RFC3339)
	return s.store.InTx(ctx, func(tx Tx) error {
		in, err := s.admit(ctx, tx, a, deviceID, c, w)
		if err != nil {
			return err
		}
		if more != nil {
			if err := more(tx, in); err != nil {
				return err
			}
		}
		return s.audit(ctx, tx, a, deviceID, "video_vended", data)
	})
}

// Clip opens an MP4 file of what a device's stream had from one time to another, at most
// five minutes. A person may receive two at once; the third is RateLimited. The caller
// closes it. Errors: those of [Service.Admit] by CanClipDownload, Invalid, those of
// [Cloud].
func (s *Service) Clip(ctx context.Context, a registry.Actor, deviceID string, from, to time.Time) (io.ReadCloser, error) {
	w := Want{Feature: Playback, From: from}
	in, err := s.Admit(ctx, a, deviceID, registry.CanClipDownload, w)
	switch {
	case err != nil:
		return nil, err
	case !to.After(from), to.Sub(from) > maxClip, from.After(s.now()):
		return nil, registry.E(registry.Invalid, ErrRange.Code, "A clip ends after it starts, is at most 300 seconds long, and starts in the past.")
	}
	release, ok := s.clips.take(a.ID)
	if !ok {
		return nil, errClips
	}
	h := Holder{UserID: a.ID, DeviceID: deviceID}
	body, err := s.opts.Cloud.Clip(ctx, h, in.Video, from, to)
	if err != nil {
		release()
		return nil, err
	}
	err = s.vended(ctx, a, deviceID, registry.CanClipDownload, w, h, s.now(), map[string]any{
		"start": from.UTC().Format(time.RFC3339Nano), "end": to.UTC().Format(time.RFC3339Nano),
	}, nil)
	if err != nil {
		_ = body.Close() // nothing of it was used
		release()
		return nil, err
	}
	return &clip{ReadCloser: body, release: release}, nil
}

var errClips = &registry.Error{
	Kind: registry.RateLimited, Code: "RATE_LIMITED", Message: "You are receiving as many clips as one person can.", RetryAfter: 10 * time.Second, Scope: "user",
}

// clip gives its place back when it is closed.
type clip struct {
	io.ReadCloser
	release func()
}

func (c *clip) Close() error {
	c.release()
	return c.ReadCloser.Close()
}

// places counts what people have at once.
type places struct {
	mu    sync.Mutex
	taken map[string]int
}

// take takes a place, until release is called.
func (p *places) take(userID string) (release func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[userID] >= maxClips {
		return nil, false
	}
	if p.taken == nil {
		p.taken = map[string]int{}
	}
	p.taken[userID]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.taken[userID]--; p.taken[userID] == 0 {
			delete(p.taken, userID)
		}
	}), true
}
