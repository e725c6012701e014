package rollout

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/topic"
)

// Release is firmware that devices may be updated to.
type Release struct {
	No          int64
	ID          string // rel_...
	Version     string // 1-32 printable characters, exactly as devices report it
	Hardware    []string
	URL         string // https; its query may be a signature, see [Release.Shown]
	SHA256      string // 64 lower-case hex digits, of the image
	MinRSSI     *int64 // dBm, -127 to 0; nil: any
	Notes       string // at most 1,000 characters
	WithdrawnAt time.Time
	CreatedBy   string // the actor
	CreatedAt   time.Time
}

const (
	maxHardware = 16
	maxNotes    = 1000
	// maxTrigger is the largest packet with a trigger, its topic included: the buffer of
	// an ESP32. [contracts J]
	maxTrigger = 1024
	// packetOverhead is what a QoS 1 PUBLISH has beside topic and payload.
	packetOverhead = 7
)

// The errors of releases.
var (
	ErrReleaseNotFound  = registry.E(registry.NotFound, "release_not_found", "There is no such release.")
	ErrReleaseExists    = registry.E(registry.Conflict, "release_exists", "There is a release of this version for this hardware already.")
	ErrReleaseInUse     = registry.E(registry.Conflict, "release_in_use", "A rollout brings this release to devices. Cancel it first.")
	ErrReleaseWithdrawn = registry.E(registry.Conflict, "release_withdrawn", "The release has been withdrawn.")
	errTriggerTooLarge  = registry.E(registry.TooLarge, "release_too_large", "The message to a device would be larger than 1 KiB; use a shorter URL.")
)

// trigger is what a device gets on ota/trigger. [contracts, MQTT topic table]
type trigger struct {
	Version   string `json:"version"`
	URL       string `json:"url"`
	SHA256    string `json:"sha256"`
	MinRSSI   *int64 `json:"min_rssi,omitempty"`
	RolloutID string `json:"rollout_id"`
	IssuedAt  string `json:"issued_at"`
}

// payload is the message to a device.
func (r Release) payload(rolloutID string, at time.Time) ([]byte, error) {
	return json.Marshal(trigger{r.Version, r.URL, r.SHA256, r.MinRSSI, rolloutID, at.UTC().Format(time.RFC3339)})
}

// Shown is the URL as it may be shown and audited: without its query, which may be a
// signature.
func (r Release) Shown() string {
	before, _, has := strings.Cut(r.URL, "?")
	if has {
		return before + "?[redacted]"
	}
	return before
}

// fits reports whether the release is for what a device is built as.
func (r Release) fits(hardware string) bool {
	return len(r.Hardware) == 0 || slices.Contains(r.Hardware, hardware)
}

func (s *Service) check(r *Release) error {
	u, err := url.Parse(r.URL)
	switch {
	case !printable(r.Version, 1, 32):
		return invalid("version must be 1 to 32 printable characters.")
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || !printable(r.URL, 1, maxTrigger):
		return invalid("url must be an https URL without user and fragment.")
	case len(r.SHA256) != 64 || strings.Trim(r.SHA256, "0123456789abcdef") != "":
		return invalid("sha256 must be 64 lower-case hex digits.")
	case r.MinRSSI != nil && (*r.MinRSSI < -127 || *r.MinRSSI > 0):
		return invalid("min_rssi must be from -127 to 0.")
	case utf8.RuneCountInString(r.Notes) > maxNotes || strings.ContainsRune(r.Notes, 0):
		return invalid("notes must be at most 1000 characters.")
	}
	if r.Hardware, err = hardwareList(r.Hardware); err != nil {
		return err
	}
	payload, err := r.payload("ro_"+strings.Repeat("x", 20), s.now())
	if err != nil {
		return err
	}
	if len(payload)+len(s.opts.Root.Build(strings.Repeat("0", 32), topic.OTATrigger))+packetOverhead > maxTrigger {
		return errTriggerTooLarge
	}
	return nil
}

// hardwareList is a list of kinds of hardware, sorted, each once.
func hardwareList(list []string) ([]string, error) {
	list = slices.Clone(list)
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) > maxHardware || slices.ContainsFunc(list, func(h string) bool { return !registry.ValidHardware(h) }) {
		return nil, invalid("hardware must be at most " + strconv.Itoa(maxHardware) + " names of 1 to 32 letters, digits, dots, hyphens and underscores.")
	}
	return list, nil
}

func printable(s string, least, most int) bool {
	n := utf8.RuneCountInString(s)
	return n >= least && n <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// CreateRelease records a release; of r, Version, Hardware, URL, SHA256, MinRSSI and
// Notes count. Errors: Invalid, TooLarge, ErrReleaseExists, ErrInsufficientRole,
// ErrInsufficientScope.
func (s *Service) CreateRelease(ctx context.Context, a registry.Actor, r Release) (Release, error) {
	if err := manager(a); err != nil {
		return Release{}, err
	}
	if err := s.check(&r); err != nil {
		return Release{}, err
	}
	r.ID, r.CreatedBy, r.CreatedAt, r.WithdrawnAt = newID("rel_"), a.String(), s.now(), time.Time{}
	err := s.change(ctx, func(tx Tx, _ *moves) (err error) {
		if r.No, err = tx.InsertRelease(ctx, r); err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "", "release_created", map[string]any{
			"release_id": r.ID, "version": r.Version, "hardware": r.Hardware, "url": r.Shown(), "sha256": r.SHA256,
		})
	})
	if err != nil {
		return Release{}, err
	}
	return r, nil
}

// Release reads one release. Errors: ErrReleaseNotFound, ErrInsufficientRole,
// ErrInsufficientScope.
func (s *Service) Release(ctx context.Context, a registry.Actor, id string) (r Release, err error) {
	if err := manager(a); err != nil {
		return Release{}, err
	}
	err = s.view(ctx, func(tx Tx) (err error) {
		r, err = tx.Release(ctx, id)
		return err
	})
	return r, err
}

// Releases lists releases, newest first, below the given number (0: from the top).
func (s *Service) Releases(ctx context.Context, a registry.Actor, before int64, limit int) (list []Release, err error) {
	if err := manager(a); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(tx Tx) (err error) {
		list, err = tx.Releases(ctx, before, limit)
		return err
	})
	return list, err
}

// WithdrawRelease keeps a release from being rolled out again. It does nothing to one
// that is withdrawn. Errors: ErrReleaseNotFound, ErrReleaseInUse, ErrInsufficientRole,
// ErrInsufficientScope.
func (s *Service) WithdrawRelease(ctx context.Context, a registry.Actor, id string) (r Release, err error) {
	if err := manager(a); err != nil {
		return Release{}, err
	}
	err = s.change(ctx, func(tx Tx, _ *moves) (err error) {
		if r, err = tx.Release(ctx, id); err != nil || !r.WithdrawnAt.IsZero() {
			return err
		}
		r.WithdrawnAt = s.now()
		changed, err := tx.WithdrawRelease(ctx, r.No, r.WithdrawnAt)
		if err == nil && !changed {
			err = ErrReleaseInUse
		}
		if err != nil {
			return err
		}
		return s.audit(ctx, tx, a, "", "release_withdrawn", map[string]any{"release_id": r.ID, "version": r.Version})
	})
	return r, err
}
