package fleet

import (
	"encoding/json"
	"strconv"
	"time"
)

// What a device with a camera asks for, and how often. [contracts A.5]
const (
	videoSettle = 2 * time.Second  // from the first sign of life; people have named its stream by then, or not
	videoRetry  = time.Minute      // after a refusal that names no time; one request a minute is allowed
	videoAnswer = 30 * time.Second // until an answer is given up
	videoEarly  = 5 * time.Minute  // before the credentials end
	videoPacket = 4096             // the least buffer that an answer with credentials fits in
)

// videoRequest asks for credentials, or where there are some.
type videoRequest struct {
	RequestID string `json:"request_id"`
	Purpose   string `json:"purpose,omitempty"`
}

// videoPlace is the answer to kvs/config/request.
type videoPlace struct {
	RequestID string `json:"request_id"`
	Status    string `json:"status"`
	Error     string `json:"error"`
	Endpoint  string `json:"endpoint"`
}

// videoLoan is the answer to kvs/credentials/request.
type videoLoan struct {
	RequestID     string `json:"request_id"`
	Status        string `json:"status"`
	Error         string `json:"error"`
	RetryAfterSec int    `json:"retry_after_sec"`
	ChannelARN    string `json:"channel_arn"`
	Credentials   struct {
		AccessKeyID     string    `json:"accessKeyId"`
		SecretAccessKey string    `json:"secretAccessKey"`
		SessionToken    string    `json:"sessionToken"`
		Expiration      time.Time `json:"expiration"`
	} `json:"credentials"`
}

// videoWanted says that a device with a camera looks for credentials, unless it has some.
func (s *session) videoWanted(now time.Time) {
	if !s.d.life.Video || !s.video.IsZero() {
		return
	}
	s.video = now.Add(s.d.jitter(videoSettle))
	if again := s.d.lentUntil.Add(-videoEarly); again.After(s.video) {
		s.video = again
	}
}

// askForVideo asks where AWS IoT gives credentials; the cloud is asked when it does not.
func (s *session) askForVideo(now time.Time) error {
	s.video = now.Add(videoAnswer)
	s.videoRequest = s.d.nextRequest()
	return s.publish("kvs/config/request", 1, false, forOther, videoRequest{RequestID: s.videoRequest})
}

// nextRequest names a request; the same device names no two alike.
func (d *Device) nextRequest() string {
	d.requests++
	return "sim-" + strconv.FormatInt(d.booted.UnixMilli(), 36) + "-" + strconv.Itoa(d.requests)
}

// videoLocated takes the answer to kvs/config/request.
func (s *session) videoLocated(p videoPlace, now time.Time) error {
	switch {
	case p.RequestID != s.videoRequest:
		return nil // of a request that was given up
	case p.Status == "ok" && p.Endpoint != "":
		s.video = time.Time{} // from there it gets them by itself
		s.d.stats.Located.Add(1)
		return nil
	case p.Error == "not_provisioned":
		s.video = now.Add(s.d.jitter(videoRetry))
		return nil
	}
	s.video = now.Add(videoAnswer)
	s.videoRequest = s.d.nextRequest()
	return s.publish("kvs/credentials/request", 1, false, forOther, videoRequest{s.videoRequest, "webrtc"})
}

// videoLent takes the answer to kvs/credentials/request. The credentials are not kept: this
// device has no pictures to send.
func (s *session) videoLent(l videoLoan, now time.Time) error {
	if l.RequestID != s.videoRequest {
		return nil
	}
	k := l.Credentials
	if l.Status == "ok" && k.AccessKeyID != "" && k.SecretAccessKey != "" && k.SessionToken != "" && k.Expiration.After(now) && l.ChannelARN != "" {
		s.d.stats.Lent.Add(1)
		s.d.lentUntil = k.Expiration
		s.video = time.Time{}
		s.videoWanted(now)
		return nil
	}
	wait := videoRetry
	if l.RetryAfterSec > 0 {
		wait = max(wait, time.Duration(l.RetryAfterSec)*time.Second)
	}
	s.video = now.Add(s.d.jitter(wait) + wait/4) // never before its time
	switch {
	case l.Status == "ok":
		s.d.stats.Fail("video: credentials that are incomplete or over", nil)
	case l.Error != "not_provisioned" && l.Error != "entitlement_required" && l.Error != "feature_disabled":
		s.d.stats.Fail("video refused: "+l.Error, nil)
	}
	return nil
}

// endViewer ends the connection of a viewer, and succeeds when there is none.
func (d *Device) endViewer(params json.RawMessage) bool {
	var viewer struct {
		ClientID string `json:"client_id"`
	}
	if json.Unmarshal(params, &viewer) != nil || viewer.ClientID == "" {
		return false
	}
	d.stats.Ended.Add(1)
	return true
}
