package stripe

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// maxTries bounds the tries of one report; Stripe goes on for three days.
const maxTries = 20

// report sends an event, again and again until it is taken, each on its own: they arrive
// in any order. The caller holds the lock.
func (s *Server) report(name string, object any) {
	body, err := json.Marshal(map[string]any{
		"id": "evt_" + random(12), "object": "event", "type": name, "api_version": "2023-10-16", "created": s.opts.Now().Unix(),
		"livemode": false, "data": map[string]any{"object": object},
	})
	if err != nil || s.ctx.Err() != nil {
		return
	}
	s.reports.Go(func() {
		status := 0
		for range maxTries {
			if status = s.send(body); status >= 200 && status < 300 {
				break
			}
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(s.opts.Patient):
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent = append(s.sent, Sent{name, body, status})
	})
}

// Sign is the header Stripe-Signature of a body.
func Sign(body []byte, secret string, at time.Time) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "%d.%s", at.Unix(), body) // a hash takes everything
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}

// send sends a body once and returns the status of the answer; 0: there was none.
func (s *Server) send(body []byte) int {
	target := ""
	if s.opts.Target != nil {
		target = s.opts.Target()
	}
	if target == "" {
		return 0
	}
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("Stripe-Signature", Sign(body, s.opts.Secret, s.opts.Now()))
	answer, err := s.client.Do(r)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}
