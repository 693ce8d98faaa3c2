package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisTimeout bounds one dial, read or write; a caller's context may end it sooner.
const redisTimeout = 2 * time.Second

// baseOptions are the settings of every client: no retries of its own, because only the caller knows what may be repeated.
func baseOptions() *redis.UniversalOptions {
	return &redis.UniversalOptions{
		ContextTimeoutEnabled: true,
		MaxRetries:            -1,
		PoolSize:              max(32, 10*runtime.GOMAXPROCS(0)), // go-redis's own would be 10 on one core: no room beside the lanes'
		DialTimeout:           redisTimeout,
		DialerRetries:         1,
		ReadTimeout:           redisTimeout,
		WriteTimeout:          redisTimeout,
		DisableIdentity:       true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
}

// redisOptions reads a --redis URL. The text of an error never holds the URL, which may hold a password.
func redisOptions(text string) (*redis.UniversalOptions, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, wrongSetting("--redis: not a URL; write redis://user:password@host:6379/0")
	}
	options := baseOptions()
	kind, ok := strings.CutPrefix(u.Scheme, "rediss")
	if ok {
		options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	} else {
		kind = strings.TrimPrefix(u.Scheme, "redis")
	}
	options.Username = u.User.Username()
	options.Password, _ = u.User.Password()
	path := strings.Trim(u.Path, "/")
	port := "6379"
	switch kind {
	case "":
		if path != "" {
			if options.DB, err = strconv.Atoi(path); err != nil || options.DB < 0 {
				return nil, wrongSetting("--redis: the path of a redis:// URL is the number of a database, as in redis://host:6379/0")
			}
		}
	case "+cluster":
		options.IsClusterMode = true
		if path != "" {
			return nil, wrongSetting("--redis: a redis+cluster:// URL has no path; a cluster has one database")
		}
	case "+sentinel":
		port = "26379"
		if options.MasterName = path; path == "" {
			return nil, wrongSetting("--redis: a redis+sentinel:// URL ends in the name of the master, as in redis+sentinel://host1,host2/mymaster")
		}
	default:
		return nil, wrongSetting("--redis: the scheme must be redis, rediss, redis+cluster or redis+sentinel")
	}
	return options, setAddresses(options, u, port)
}

// setAddresses reads the hosts of a --redis URL, and refuses what would be ignored.
func setAddresses(options *redis.UniversalOptions, u *url.URL, port string) error {
	for host := range strings.SplitSeq(u.Host, ",") {
		if host == "" {
			return wrongSetting("--redis: a host is missing; write redis://host:6379")
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), port)
		}
		options.Addrs = append(options.Addrs, host)
	}
	switch {
	case u.RawQuery != "":
		return wrongSetting("--redis: the URL has no query")
	case len(options.Addrs) > 1 && !options.IsClusterMode && options.MasterName == "":
		return wrongSetting("--redis: several hosts need redis+cluster:// or redis+sentinel://")
	}
	return nil
}

// redisName names a Redis for people, without what is secret.
func redisName(o *redis.UniversalOptions) string {
	name := strings.Join(o.Addrs, ",")
	if o.MasterName != "" {
		name += " (master " + o.MasterName + ")"
	}
	return name
}

// localAddresses are the addresses that a listener can be reached by: all of this machine when it listens on every interface.
func localAddresses(of net.Addr) []string {
	host, port, err := net.SplitHostPort(of.String())
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return []string{of.String()}
	}
	list := []string{net.JoinHostPort("0.0.0.0", port), net.JoinHostPort("::", port), net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return list
	}
	for _, a := range addresses {
		if network, ok := a.(*net.IPNet); ok {
			list = append(list, net.JoinHostPort(network.IP.String(), port))
		}
	}
	return list
}

// resolved adds to host:port addresses those that their names stand for at present.
func resolved(addresses ...string) []string {
	list := slices.Clone(addresses)
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil || net.ParseIP(host) != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), redisTimeout)
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		cancel()
		if err != nil {
			continue
		}
		for _, ip := range found {
			list = append(list, net.JoinHostPort(ip, port))
		}
	}
	return list
}
