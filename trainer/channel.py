"""placeholder until merge"""
class Channel:
    @classmethod
    def from_environment(cls, environ): return cls()
    def beat(self, phase, step=0): pass
    def asked(self): return None
