package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// release is a new release of firmware that nothing brings to devices.
func (s *stage) release(t *testing.T) string {
	t.Helper()
	s.bodies++
	var answer struct {
		ID string `json:"release_id"`
	}
	s.For(t).Post("/admin/releases", s.staffToken(t, "admin"), object{
		"version": fmt.Sprintf("9.0.%d", s.bodies), "url": "https://updates.example.com/9.bin", "sha256": strings.Repeat("ab", 32),
	}, &answer)
	return answer.ID
}

func releaseOf(s *stage, t *testing.T, _, target string, _ verdict) []string {
	if target == "absent" {
		return []string{"rel_nobodys"}
	}
	return []string{s.release(t)}
}

// rolloutOf is a rollout to a device that is not connected and that has not begun, so
// that it does not move by itself, resumed or not.
func rolloutOf(s *stage, t *testing.T, _, target string, _ verdict) []string {
	if target == "absent" {
		return []string{"ro_nobodys"}
	}
	var answer struct {
		ID string `json:"rollout_id"`
	}
	s.For(t).Post("/admin/rollouts", s.staffToken(t, "admin"), object{"release_id": s.release(t), "devices": []string{s.house.ID}, "paused": true}, &answer)
	return []string{answer.ID}
}

// newRelease is a rollout that may begin, and does not.
func newRelease(s *stage, t *testing.T, actor string) (token, body string) {
	return s.token(t, actor), `{"release_id":"` + s.release(t) + `","paused":true}`
}
