package httpapi

import "github.com/opticworks/devicecloud/registry"

// statsBody is the fleet at a glance. [seed 003 10.1]
type statsBody struct {
	TotalDevices        int           `json:"total_devices"`
	OnlineDevices       int           `json:"online_devices"`
	VersionDistribution []versionBody `json:"version_distribution"`
	DailyActive         []dayBody     `json:"daily_active"`
}

type versionBody struct {
	FirmwareVersion *string `json:"firmware_version"` // null: not known
	Count           int     `json:"count"`
}

type dayBody struct {
	Date   string `json:"date"` // of UTC
	Active int    `json:"active"`
}

func (a *api) stats(r *request) (answer, error) {
	s, err := a.Registry.Stats(r.Context(), r.actor)
	if err != nil {
		return answer{}, err
	}
	return ok(statsBody{
		s.Total, s.Online,
		render(s.Versions, func(v registry.VersionCount) versionBody { return versionBody{text(v.Version), v.Count} }),
		render(s.Daily, func(d registry.DayCount) dayBody { return dayBody{d.Date, d.Active} }),
	})
}
